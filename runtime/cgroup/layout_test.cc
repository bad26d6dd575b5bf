#include "runtime/cgroup/layout.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace davit::runtime::cgroup {
namespace {

using testing::ElementsAre;

constexpr char kHybrid[] =
    "23 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n"
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup "
    "rw,cpuacct,cpu\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n";

TEST(LayoutTest, AHybridMachineHasItsV1HierarchiesFirstAndThenV2) {
  const auto layout = ParseLayout(kHybrid, "hugetlb\n");
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_EQ(layout->hierarchies.size(), 4u);
  EXPECT_EQ(layout->hierarchies[0].mount_point, "/sys/fs/cgroup/cpu,cpuacct");
  EXPECT_THAT(layout->hierarchies[0].controllers, ElementsAre("cpu", "cpuacct"));
  EXPECT_EQ(layout->Find("cpu"), 0);
  EXPECT_EQ(layout->Find("cpuacct"), 0);
  EXPECT_EQ(layout->Find("memory"), 1);
  EXPECT_EQ(layout->Find("name=systemd"), 2);
  EXPECT_EQ(layout->Find("pids"), -1);
  EXPECT_EQ(layout->Unified(), 3);
  EXPECT_EQ(layout->Find("hugetlb"), 3);
  EXPECT_FALSE(layout->IsPureV2());
  EXPECT_TRUE(layout->hierarchies[2].controllers.empty());
  EXPECT_EQ(layout->Directory(1, "/davit/a"), "/sys/fs/cgroup/memory/davit/a");
}

TEST(LayoutTest, APureV2MachineHasOneHierarchy) {
  const auto layout = ParseLayout(
      "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
      "cpuset cpu io memory pids\n");
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_EQ(layout->hierarchies.size(), 1u);
  EXPECT_TRUE(layout->IsPureV2());
  EXPECT_THAT(layout->hierarchies[0].controllers,
              ElementsAre("cpu", "cpuset", "io", "memory", "pids"));
  EXPECT_EQ(layout->Find("memory"), 0);
}

TEST(LayoutTest, AHierarchyMountedTwiceCountsOnceAtTheMountThatShowsAllOfIt) {
  const auto layout = ParseLayout(
      "35 31 0:32 /docker/x /mnt/part rw - cgroup cgroup rw,memory\n"
      "36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
      "37 31 0:32 / /chroot/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n",
      "");
  ASSERT_TRUE(layout.ok());
  ASSERT_EQ(layout->hierarchies.size(), 1u);
  EXPECT_EQ(layout->hierarchies[0].mount_point, "/sys/fs/cgroup/memory");
}

TEST(LayoutTest, EscapedMountPointsAreUnescaped) {
  const auto layout = ParseLayout("35 31 0:32 / /a\\040b rw - cgroup cgroup rw,pids\n", "");
  ASSERT_TRUE(layout.ok());
  EXPECT_EQ(layout->hierarchies[0].mount_point, "/a b");
}

TEST(LayoutTest, AMachineWithoutCgroupsIsRefused) {
  EXPECT_EQ(ParseLayout("23 1 254:0 / / rw - ext4 /dev/vda rw\n", "").status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(ParseLayout("garbage\n- - -\n", "").ok());
}

TEST(LayoutTest, OwnGroupsAreFoundByHierarchy) {
  const auto layout = ParseLayout(kHybrid, "");
  ASSERT_TRUE(layout.ok());
  const auto groups = ParseOwnGroups(
      *layout, "9:name=systemd:/init\n4:memory:/a:b\n2:cpuacct,cpu:/c\n8:pids:/x\n0::/u\n");
  ASSERT_TRUE(groups.ok());
  EXPECT_THAT(*groups, ElementsAre("/c", "/a:b", "/init", "/u"));
  EXPECT_FALSE(ParseOwnGroups(*layout, "nonsense\n").ok());
}

TEST(LayoutTest, ThisMachineHasALayout) {
  const auto layout = DetectLayout();
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_GE(layout->Find("memory"), 0);
  EXPECT_GE(layout->Find("pids"), 0);
  const auto own = OwnGroups(*layout);
  ASSERT_TRUE(own.ok()) << own.status();
  EXPECT_EQ(own->size(), layout->hierarchies.size());
}

TEST(LayoutTest, PathsThatCouldLeaveOurGroupsAreRefused) {
  EXPECT_TRUE(CheckGroupPath("/davit/pod/container").ok());
  EXPECT_TRUE(CheckGroupPath("/kubepods/burstable/pod.1").ok());
  for (const char* bad : {"", "/", "davit", "/davit/", "/davit//x", "/davit/../kubepods", "/..",
                          "/davit/.", "/da\nvit"}) {
    EXPECT_EQ(CheckGroupPath(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_FALSE(CheckGroupPath("/" + std::string(300, 'x')).ok());
}

}  // namespace
}  // namespace davit::runtime::cgroup
