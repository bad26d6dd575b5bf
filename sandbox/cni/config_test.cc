#include "sandbox/cni/config.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sandbox::cni {
namespace {

using testing::HasSubstr;

constexpr char kList[] =
    R"({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap",
        "capabilities": {"portMappings": true}}]})";

TEST(NetworkConfigTest, AListKeepsItsPluginsInOrder) {
  const auto config = ParseNetworkConfig(kList, "x.conflist", false);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->name, "net");
  EXPECT_EQ(config->cni_version, "1.0.0");
  ASSERT_EQ(config->plugins.size(), 2u);
  EXPECT_EQ(config->plugins[0].type, "bridge");
  EXPECT_EQ(config->plugins[1].type, "portmap");
  EXPECT_FALSE(config->disable_check);
  // What is stored parses to the same again.
  const auto again = ParseNetworkConfig(config->json, "", false);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->json, config->json);
}

TEST(NetworkConfigTest, ALonePluginBecomesAListOfOne) {
  const auto config =
      ParseNetworkConfig(R"({"cniVersion":"0.3.1","name":"n","type":"ptp"})", "x.conf", true);
  ASSERT_TRUE(config.ok()) << config.status();
  ASSERT_EQ(config->plugins.size(), 1u);
  EXPECT_EQ(config->plugins[0].type, "ptp");
  EXPECT_EQ(config->cni_version, "0.3.1");
  EXPECT_TRUE(ParseNetworkConfig(config->json, "", false).ok());
}

TEST(NetworkConfigTest, TheNewestOfferedVersionThatIsKnownIsUsed) {
  const auto config = ParseNetworkConfig(
      R"({"cniVersion":"0.4.0","cniVersions":["1.0.0","9.0.0","0.3.1"],"name":"n",
          "plugins":[{"type":"a"}]})",
      "x", false);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->cni_version, "1.0.0");
}

TEST(NetworkConfigTest, BrokenConfigurationsAreToldWithFileAndReason) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not valid JSON"},
      {"[]", "not an object"},
      {"{\"name\":\"n\"", "not valid JSON"},
      {R"({"name":"n","name":"m","plugins":[{"type":"a"}]})", "twice"},
      {R"({"plugins":[{"type":"a"}]})", "name"},
      {R"({"name":"../n","plugins":[{"type":"a"}]})", "name"},
      {R"({"name":"n"})", "plugins"},
      {R"({"name":"n","plugins":[]})", "plugins"},
      {R"({"name":"n","plugins":["a"]})", "type"},
      {R"({"name":"n","plugins":[{"type":"../../bin/sh"}]})", "type"},
      {R"({"name":"n","plugins":[{"type":".."}]})", "type"},
      {R"({"name":"n","cniVersion":"7.0.0","plugins":[{"type":"a"}]})", "7.0.0"},
      {R"({"name":"n","plugins":[{"type":"a","capabilities":[]}]})", "capabilities"},
  };
  for (const auto& [text, reason] : cases) {
    const auto config = ParseNetworkConfig(text, "10-x.conflist", false);
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr("10-x.conflist"));
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(reason)) << text;
  }
  std::string deep(5000, '[');
  EXPECT_FALSE(ParseNetworkConfig(deep, "x", false).ok());
  EXPECT_FALSE(ParseNetworkConfig(std::string(2 << 20, ' '), "x", false).ok());
  EXPECT_FALSE(ParseNetworkConfig(kList, "x.conf", true).ok());
}

TEST(NetworkConfigTest, VersionsCompareByNumber) {
  EXPECT_TRUE(VersionAtLeast("1.0.0", "0.4.0"));
  EXPECT_TRUE(VersionAtLeast("0.4.0", "0.4.0"));
  EXPECT_FALSE(VersionAtLeast("0.3.1", "0.4.0"));
  EXPECT_TRUE(VersionAtLeast("0.10.0", "0.9.0"));
}

class ConfigDirectoryTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-cni-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    path_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, path_).ok()); }

  void Write(const std::string& name, const std::string& text) {
    const auto dir = sys::OpenAt(AT_FDCWD, path_, O_RDONLY | O_DIRECTORY);
    ASSERT_TRUE(sys::WriteFileAtomic(dir->get(), name, text, 0644, sys::Durability::kProcess).ok());
  }
  static std::string Named(const std::string& name) {
    return absl::StrCat(R"({"name":")", name, R"(","plugins":[{"type":"a"}]})");
  }

  std::string path_;
};

TEST_F(ConfigDirectoryTest, TheFirstFileByNameCounts) {
  ConfigDirectory directory(path_);
  EXPECT_EQ(directory.Get().status().code(), absl::StatusCode::kNotFound);
  Write("20-b.conflist", Named("b"));
  Write("30-c.conflist", Named("c"));
  Write("00-readme.txt", "not a configuration");
  EXPECT_EQ((*directory.Get())->name, "b");
  Write("10-a.conf", R"({"name":"a","type":"x"})");
  EXPECT_EQ((*directory.Get())->name, "a");
  EXPECT_EQ((*directory.Get())->file, path_ + "/10-a.conf");
}

TEST_F(ConfigDirectoryTest, ChangesAreSeenAndNothingIsReadAgainWithoutOne) {
  ConfigDirectory directory(path_);
  Write("a.conflist", Named("one"));
  const auto first = *directory.Get();
  EXPECT_EQ((*directory.Get()).get(), first.get());
  Write("a.conflist", Named("two"));
  EXPECT_EQ((*directory.Get())->name, "two");
  ASSERT_EQ(unlink((path_ + "/a.conflist").c_str()), 0);
  EXPECT_FALSE(directory.Get().ok());
}

TEST_F(ConfigDirectoryTest, ABrokenFirstFileIsNotPassedOver) {
  ConfigDirectory directory(path_);
  Write("10-a.conflist", "{");
  Write("20-b.conflist", Named("b"));
  EXPECT_EQ(directory.Get().status().code(), absl::StatusCode::kInvalidArgument);
  Write("10-a.conflist", Named("a"));
  EXPECT_EQ((*directory.Get())->name, "a");
}

TEST_F(ConfigDirectoryTest, AMissingDirectoryIsAMissingConfiguration) {
  ConfigDirectory directory(path_ + "/none");
  const auto config = directory.Get();
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(path_ + "/none"));
}

}  // namespace
}  // namespace davit::sandbox::cni
