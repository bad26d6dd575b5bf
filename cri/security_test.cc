#include "cri/security.h"

#include <fcntl.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

using Kind = ProfileRequest::Kind;

std::string WriteProfile(const std::string& text) {
  std::string path = testing::TempDir() + "/profile.json";
  const auto fd = sys::OpenAt(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  EXPECT_TRUE(fd.ok() && sys::WriteAll(fd->get(), text, path).ok());
  return path;
}

TEST(SecurityTest, ProfileNames) {
  EXPECT_EQ(ParseProfileName("")->kind, Kind::kUnconfined);
  EXPECT_EQ(ParseProfileName("unconfined")->kind, Kind::kUnconfined);
  EXPECT_EQ(ParseProfileName("runtime/default")->kind, Kind::kRuntimeDefault);
  EXPECT_EQ(ParseProfileName("docker/default")->kind, Kind::kRuntimeDefault);
  EXPECT_EQ(ParseProfileName("localhost//etc/x")->localhost, "/etc/x");
  EXPECT_FALSE(ParseProfileName("localhost/").ok());
  EXPECT_FALSE(ParseProfileName("nonsense").ok());
}

TEST(SecurityTest, UnconfinedAndPrivilegedHaveNoFilterTheDefaultHas) {
  EXPECT_FALSE(BuildSeccomp({Kind::kUnconfined, ""}, false, 0)->has_value());
  EXPECT_FALSE(BuildSeccomp({Kind::kRuntimeDefault, ""}, true, 0)->has_value());
  const auto profile = BuildSeccomp({Kind::kRuntimeDefault, ""}, false, 0);
  ASSERT_TRUE(profile.ok() && profile->has_value());
  EXPECT_EQ((*profile)->default_action, "SCMP_ACT_ERRNO");
}

TEST(SecurityTest, ALocalhostProfileIsReadFromItsFile) {
  const std::string path = WriteProfile(R"({
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"}]})");
  const auto profile = BuildSeccomp({Kind::kLocalhost, path}, false, 0);
  ASSERT_TRUE(profile.ok()) << profile.status();
  EXPECT_EQ((*profile)->default_action, "SCMP_ACT_ALLOW");
  ASSERT_EQ((*profile)->syscalls.size(), 1u);
  EXPECT_EQ((*profile)->syscalls[0].names[0], "sethostname");
  ::unlink(path.c_str());
}

TEST(SecurityTest, ABadLocalhostProfileIsAnErrorThatNamesTheFile) {
  EXPECT_EQ(BuildSeccomp({Kind::kLocalhost, "/nonexistent"}, false, 0).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(BuildSeccomp({Kind::kLocalhost, "relative"}, false, 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  for (const char* text :
       {"", "{", "null", R"({"defaultAction": 7})",
        R"({"defaultAction":"SCMP_ACT_ALLOW","defaultAction":"SCMP_ACT_KILL"})"}) {
    const std::string path = WriteProfile(text);
    const auto profile = BuildSeccomp({Kind::kLocalhost, path}, false, 0);
    EXPECT_EQ(profile.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(absl::StrContains(profile.status().message(), path)) << profile.status();
    ::unlink(path.c_str());
  }
}

TEST(SecurityTest, AnAppArmorProfileThatCannotBeAppliedIsAnError) {
  const ProfileRequest named{Kind::kLocalhost, "my-profile"};
  EXPECT_EQ(ChooseAppArmor(std::nullopt, false, false).value_or("?"), "");
  EXPECT_EQ(ChooseAppArmor(ProfileRequest{Kind::kRuntimeDefault, ""}, false, false).value_or("?"),
            "");
  EXPECT_EQ(ChooseAppArmor(named, false, false).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ChooseAppArmor(named, true, false).value_or("?"), "") << "privileged";
  EXPECT_EQ(ChooseAppArmor(ProfileRequest{Kind::kLocalhost, ""}, false, true).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(SecurityTest, ProtectedPaths) {
  EXPECT_TRUE(CheckProtectedPath("/proc/kcore").ok());
  EXPECT_FALSE(CheckProtectedPath("proc/kcore").ok());
  EXPECT_FALSE(CheckProtectedPath("/proc/../etc").ok());
  EXPECT_FALSE(CheckProtectedPath("").ok());
}

}  // namespace
}  // namespace davit::cri
