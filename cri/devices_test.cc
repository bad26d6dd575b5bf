#include "cri/devices.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace davit::cri {
namespace {

TEST(DevicesTest, WithoutRequestsOnlyTheDefaultDevicesAreAllowed) {
  const auto set = BuildDevices({}, false);
  ASSERT_TRUE(set.ok());
  EXPECT_TRUE(set->nodes.empty());
  ASSERT_FALSE(set->rules.empty());
  EXPECT_FALSE(set->rules[0].allow);
  EXPECT_EQ(set->rules[0].type, "a");
  for (size_t i = 1; i < set->rules.size(); ++i) EXPECT_TRUE(set->rules[i].allow);
}

TEST(DevicesTest, ADeviceBecomesANodeAndARule) {
  const auto set = BuildDevices({{"/dev/mine", "/dev/null", "r"}}, false);
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->nodes.size(), 1u);
  EXPECT_EQ(set->nodes[0].path, "/dev/mine");
  EXPECT_EQ(set->nodes[0].type, "c");
  EXPECT_EQ(set->nodes[0].major, 1);
  EXPECT_EQ(set->nodes[0].minor, 3);
  const auto& rule = set->rules.back();
  EXPECT_TRUE(rule.allow);
  EXPECT_EQ(rule.major, 1);
  EXPECT_EQ(rule.minor, 3);
  EXPECT_EQ(rule.access, "r");
}

TEST(DevicesTest, ALinkIsFollowedAndADirectoryGivesItsNodes) {
  std::string dir = testing::TempDir() + "/devices.XXXXXX";
  ASSERT_NE(::mkdtemp(dir.data()), nullptr);
  ASSERT_EQ(::symlink("/dev/zero", (dir + "/link").c_str()), 0);
  ASSERT_EQ(::mkdir((dir + "/sub").c_str(), 0755), 0);
  ASSERT_EQ(::mknod((dir + "/sub/node").c_str(), S_IFCHR | 0600, makedev(1, 7)), 0);
  const auto link = BuildDevices({{"/dev/z", dir + "/link", ""}}, false);
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_EQ(link->nodes[0].minor, 5);
  EXPECT_EQ(link->rules.back().access, "rwm");
  const auto all = BuildDevices({{"/dev/all", dir, ""}}, false);
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->nodes.size(), 1u);
  EXPECT_EQ(all->nodes[0].path, "/dev/all/sub/node");
  ::unlink((dir + "/sub/node").c_str());
  ::rmdir((dir + "/sub").c_str());
  ::unlink((dir + "/link").c_str());
  ::rmdir(dir.c_str());
}

TEST(DevicesTest, APrivilegedContainerSeesTheHostsDevicesAndMayUseAll) {
  const auto set = BuildDevices({}, true);
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->rules.size(), 1u);
  EXPECT_TRUE(set->rules[0].allow);
  bool null = false;
  for (const auto& node : set->nodes) {
    if (node.path == "/dev/null") null = true;
    EXPECT_NE(node.path.substr(0, 9), "/dev/pts/") << node.path;
  }
  EXPECT_TRUE(null);
}

TEST(DevicesTest, BadRequestsAreInvalid) {
  const auto code = [](DeviceRequest request) {
    return BuildDevices({std::move(request)}, false).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({"/dev/x", "/dev/does-not-exist", ""}), invalid);
  EXPECT_EQ(code({"/dev/x", "/etc/hostname", ""}), invalid);
  EXPECT_EQ(code({"dev/x", "/dev/null", ""}), invalid);
  EXPECT_EQ(code({"/dev/../etc/x", "/dev/null", ""}), invalid);
  EXPECT_EQ(code({"/dev/x", "", ""}), invalid);
  EXPECT_EQ(code({"/dev/x", "/dev/null", "rwx"}), invalid);
}

}  // namespace
}  // namespace davit::cri
