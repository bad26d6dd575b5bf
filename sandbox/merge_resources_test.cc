#include "sandbox/merge_resources.h"

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

using runtime::spec::LinuxResources;

TEST(MergeResourcesTest, WhatAnUpdateLeavesOutStays) {
  LinuxResources current;
  current.memory.emplace();
  current.memory->limit = 100;
  current.memory->swap = 200;
  current.cpu.emplace();
  current.cpu->shares = 512;
  current.cpu->cpus = "0-1";
  current.devices.push_back({true, "c", 1, 3, "rwm"});
  LinuxResources update;
  update.memory.emplace();
  update.memory->limit = 150;
  update.cpu.emplace();
  update.cpu->quota = 5000;
  const LinuxResources merged = MergeResources(current, update);
  EXPECT_EQ(merged.memory->limit, 150);
  EXPECT_EQ(merged.memory->swap, 200);
  EXPECT_EQ(merged.cpu->shares, 512u);
  EXPECT_EQ(merged.cpu->quota, 5000);
  EXPECT_EQ(merged.cpu->cpus, "0-1");
  EXPECT_EQ(merged.devices.size(), 1u);
}

TEST(MergeResourcesTest, HugepagesAndUnifiedValuesMergeByTheirKey) {
  LinuxResources current, update;
  current.hugepage_limits = {{"2MB", 1}, {"1GB", 2}};
  current.unified = {{"memory.high", "1"}, {"memory.min", "2"}};
  update.hugepage_limits = {{"2MB", 5}, {"64KB", 6}};
  update.unified = {{"memory.high", "9"}};
  const LinuxResources merged = MergeResources(current, update);
  ASSERT_EQ(merged.hugepage_limits.size(), 3u);
  EXPECT_EQ(merged.hugepage_limits[0].limit, 5u);
  EXPECT_EQ(merged.hugepage_limits[1].limit, 2u);
  EXPECT_EQ(merged.unified.at("memory.high"), "9");
  EXPECT_EQ(merged.unified.at("memory.min"), "2");
}

TEST(MergeResourcesTest, AnUpdateCanSetWhatWasNeverSet) {
  LinuxResources update;
  update.memory.emplace();
  update.memory->limit = 7;
  update.pids_limit = 3;
  const LinuxResources merged = MergeResources({}, update);
  EXPECT_EQ(merged.memory->limit, 7);
  EXPECT_EQ(merged.pids_limit, 3);
}

}  // namespace
}  // namespace davit::sandbox
