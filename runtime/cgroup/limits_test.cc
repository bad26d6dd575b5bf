#include "runtime/cgroup/limits.h"

#include "gtest/gtest.h"

namespace davit::runtime::cgroup {
namespace {

TEST(LimitsTest, FilesOfOneValueAreUndoneByWhatTheyRead) {
  EXPECT_EQ(UndoValue("memory.max", "100", "max\n"), "max");
  EXPECT_EQ(UndoValue("cpu.max", "100", "max 100000\n"), "max 100000");
  EXPECT_EQ(UndoValue("cpu.shares", "2", "1024\n"), "1024");
}

TEST(LimitsTest, AnEmptyListIsWrittenAsANewline) {
  EXPECT_EQ(UndoValue("cpuset.cpus", "0-1", "\n"), "\n");
}

TEST(LimitsTest, AValueForADeviceIsUndoneForThatDeviceOnly) {
  EXPECT_EQ(UndoValue("io.max", "8:0 rbps=5", "8:16 rbps=max wbps=7\n8:0 rbps=1 wbps=max\n"),
            "8:0 rbps=1 wbps=max");
  EXPECT_EQ(UndoValue("io.max", "8:0 rbps=5 wiops=3", "8:16 rbps=1\n"), "8:0 rbps=max wiops=max");
  EXPECT_EQ(UndoValue("blkio.throttle.read_bps_device", "8:0 5", ""), "8:0 0");
  EXPECT_EQ(UndoValue("blkio.throttle.read_bps_device", "8:0 5", "8:0 9\n"), "8:0 9");
  EXPECT_EQ(UndoValue("io.weight", "8:0 50", "default 100\n"), "8:0 default");
}

TEST(LimitsTest, FilesThatReadOtherwiseThanTheyAreWrittenAreKnown) {
  EXPECT_EQ(UndoValue("memory.oom_control", "1", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"),
            "0");
  EXPECT_EQ(UndoValue("io.weight", "default 50", "default 100\n8:0 70\n"), "default 100");
}

}  // namespace
}  // namespace davit::runtime::cgroup
