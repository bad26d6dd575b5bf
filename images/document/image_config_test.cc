#include "images/document/image_config.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace davit::images {
namespace {

const std::string kDiff = absl::StrCat("sha256:", std::string(64, 'd'));

std::string Document(const std::string& process, const std::string& rootfs) {
  return absl::StrCat(R"({"os":"linux","architecture":"amd64","config":)", process, R"(,"rootfs":)",
                      rootfs, "}");
}
const std::string kRootfs = absl::StrCat(R"({"type":"layers","diff_ids":[")", kDiff, R"("]})");

TEST(ImageConfigTest, ReadsWhatToRun) {
  const auto parsed = ParseImageConfig(Document(
      R"({"User":"1000:users","Env":["A=b"],"Entrypoint":["/x"],"Cmd":null,"WorkingDir":"/w",)"
      R"("Volumes":{"/v":{}},"Labels":{"l":"1"},"StopSignal":"SIGINT","New":1})",
      kRootfs));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->config.user, "1000:users");
  EXPECT_EQ(parsed->config.env, std::vector<std::string>{"A=b"});
  EXPECT_EQ(parsed->config.entrypoint, std::vector<std::string>{"/x"});
  EXPECT_TRUE(parsed->config.cmd.empty());
  EXPECT_EQ(parsed->config.volumes, std::vector<std::string>{"/v"});
  EXPECT_EQ(parsed->config.labels.at("l"), "1");
  EXPECT_EQ(parsed->diff_ids.at(0).ToString(), kDiff);
  EXPECT_EQ(parsed->platform.architecture, "amd64");
}

TEST(ImageConfigTest, RefusesHostileConfigs) {
  for (const auto& [document, why] : std::vector<std::pair<std::string, std::string>>{
           {Document("{}", R"({"type":"squash","diff_ids":[]})"), "squash"},
           {Document("{}", R"({"type":"layers","diff_ids":["x"]})"), "diff ID"},
           {Document(R"({"User":"4294967296"})", kRootfs), "User"},
           {Document(R"({"User":"2147483648"})", kRootfs), "User"},
           {Document(R"({"User":"0:99999999999999999999999"})", kRootfs), "User"},
           {Document(R"({"User":"-1"})", kRootfs), "User"},
           {Document(R"({"User":1})", kRootfs), "User"},
           {Document(R"({"Env":["A\u0000=b"]})", kRootfs), "NUL"},
           {Document(R"({"Env":[],"Env":[]})", kRootfs), "twice"},
           {R"({"os":"linux"})", "rootfs"}}) {
    const auto parsed = ParseImageConfig(document);
    ASSERT_FALSE(parsed.ok()) << document;
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(absl::StrContains(parsed.status().message(), why)) << parsed.status();
  }
}

TEST(ImageUserTest, TellsNumbersFromNames) {
  EXPECT_EQ(ParseImageUser("0")->uid, 0u);
  EXPECT_EQ(ParseImageUser("2147483647:5")->gid, 5u);
  EXPECT_EQ(ParseImageUser("nobody")->user_name, "nobody");
  EXPECT_EQ(ParseImageUser("1:staff")->group_name, "staff");
  EXPECT_FALSE(ParseImageUser("")->uid.has_value());
  EXPECT_EQ(ParseImageUser("1a")->user_name, "1a");
}

}  // namespace
}  // namespace davit::images
