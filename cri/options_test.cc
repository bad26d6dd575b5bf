#include "cri/options.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

absl::StatusOr<Options> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "davitd");
  return ParseOptions(static_cast<int>(arguments.size()), arguments.data());
}

std::string WriteFile(const std::string& text) {
  std::string path = testing::TempDir() + "/options.toml";
  const auto fd = sys::OpenAt(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  EXPECT_TRUE(fd.ok() && sys::WriteAll(fd->get(), text, path).ok());
  return path;
}

TEST(OptionsTest, FlagsOverrideTheFile) {
  const std::string path = WriteFile("root = \"/file\"\nlog_level = \"warn\"\nstate = \"/s\"\n");
  const auto options = Parse({"--config", path.c_str(), "--root", "/flag", "--log-level=debug",
                              "--cni-bin-dir", "/b1", "--cni-bin-dir", "/b2", "--listen=/x.sock"});
  ASSERT_TRUE(options.ok()) << options.status();
  const auto config = EffectiveConfig(*options);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->root, "/flag");
  EXPECT_EQ(config->state, "/s");
  EXPECT_EQ(config->log_level, LogLevel::kDebug);
  EXPECT_EQ(config->cni_bin_dirs, (std::vector<std::string>{"/b1", "/b2"}));
  EXPECT_EQ(config->socket_path(), "/x.sock");
  ::unlink(path.c_str());
}

TEST(OptionsTest, AFileThatIsNamedMustExist) {
  const auto options = Parse({"--config", "/nonexistent.toml"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(EffectiveConfig(*options).status().code(), absl::StatusCode::kNotFound);
}

TEST(OptionsTest, BadArgumentsAreSaid) {
  EXPECT_EQ(Parse({"--no-such"}).status().code(), absl::StatusCode::kInvalidArgument);
  const std::string path = WriteFile("");
  const auto error = [&](const char* flag, const char* value) {
    const auto options = Parse({"--config", path.c_str(), flag, value});
    return options.ok() ? EffectiveConfig(*options).status().ToString() : "(no parse)";
  };
  EXPECT_TRUE(absl::StrContains(error("--root", "relative"), "--root"));
  EXPECT_TRUE(absl::StrContains(error("--log-level", "loud"), "loud"));
  EXPECT_TRUE(absl::StrContains(error("--root", "/run/davit"), "different"));
  ::unlink(path.c_str());
}

TEST(OptionsTest, HelpAndSwitches) {
  EXPECT_TRUE(absl::StrContains(Parse({"--help"})->help, "--check-config"));
  EXPECT_TRUE(Parse({"--version"})->version);
  EXPECT_TRUE(Parse({"--check-config"})->check_config);
}

}  // namespace
}  // namespace davit::cri
