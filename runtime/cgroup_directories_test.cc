#include "runtime/cgroup_directories.h"

#include <algorithm>

#include "gtest/gtest.h"
#include "runtime/cgroup/resources.h"

namespace davit::runtime {
namespace {

cgroup::Layout Hybrid() {
  cgroup::Layout layout;
  layout.hierarchies = {{"/sys/fs/cgroup/devices", {"devices"}, false, ""},
                        {"/sys/fs/cgroup/memory", {"memory"}, false, ""},
                        {"/sys/fs/cgroup/systemd", {}, false, "systemd"},
                        {"/sys/fs/cgroup/unified", {}, true, ""}};
  return layout;
}

TEST(CgroupDirectoriesTest, EveryHierarchyHasTheGroupAndItsOwnWrites) {
  spec::LinuxResources resources;
  resources.memory.emplace();
  resources.memory->limit = 1 << 20;
  const auto groups = CgroupDirectories(Hybrid(), "/pod/c", resources);
  ASSERT_TRUE(groups.ok()) << groups.status();
  ASSERT_EQ(groups->size(), 4u);
  const auto& memory = (*groups)[1];
  EXPECT_EQ(memory.path, "/sys/fs/cgroup/memory/pod/c");
  EXPECT_EQ(memory.mount_name, "memory");
  EXPECT_TRUE(std::any_of(memory.writes.begin(), memory.writes.end(), [](const auto& write) {
    return write.file == "memory.limit_in_bytes" && write.value == "1048576";
  }));
  EXPECT_FALSE((*groups)[0].writes.empty()) << "the default devices are always allowed";
  EXPECT_EQ((*groups)[2].named, "systemd");
  EXPECT_TRUE((*groups)[3].unified);
  EXPECT_EQ((*groups)[3].device_program, "") << "v1 holds the device controller";
}

TEST(CgroupDirectoriesTest, WhatAWriteMayFailWithReachesThePlan) {
  cgroup::Layout layout = Hybrid();
  layout.hierarchies[1].controllers.push_back("blkio");
  spec::LinuxResources resources;
  resources.block_io.emplace();
  resources.block_io->weight = 500;
  const auto groups = CgroupDirectories(layout, "/pod/c", resources);
  ASSERT_TRUE(groups.ok()) << groups.status();
  const auto& writes = (*groups)[1].writes;
  const auto weight = std::find_if(writes.begin(), writes.end(),
                                   [](const auto& write) { return write.file == "blkio.weight"; });
  ASSERT_NE(weight, writes.end());
  EXPECT_EQ(weight->flags, cgroup::kIgnoreMissing | cgroup::kIgnoreUnsupported)
      << "the file depends on the I/O scheduler";
}

}  // namespace
}  // namespace davit::runtime
