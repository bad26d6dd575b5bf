#include "runtime/cgroup/resources.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace davit::runtime::cgroup {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

Layout V1() {
  Layout layout;
  for (const char* controller :
       {"blkio", "cpu", "cpuset", "devices", "hugetlb", "memory", "pids"}) {
    layout.hierarchies.push_back({absl::StrCat("/cg/", controller), {controller}, false, ""});
  }
  layout.hierarchies.push_back({"/cg/unified", {}, true, ""});
  return layout;
}

Layout V2() {
  Layout layout;
  layout.hierarchies.push_back(
      {"/cg", {"cpu", "cpuset", "hugetlb", "io", "memory", "pids"}, true, ""});
  return layout;
}

// "memory: memory.limit_in_bytes=1" for v1, "memory.max=1" for v2.
std::vector<std::string> Compile(const spec::LinuxResources& resources, const Layout& layout,
                                 const CurrentLimits& current = {}) {
  const auto writes = CompileResources(resources, layout, current);
  EXPECT_TRUE(writes.ok()) << writes.status();
  std::vector<std::string> lines;
  if (!writes.ok()) return lines;
  for (const Write& write : *writes) lines.push_back(absl::StrCat(write.file, "=", write.value));
  return lines;
}

absl::StatusCode CodeOf(const spec::LinuxResources& resources, const Layout& layout,
                        const CurrentLimits& current = {}) {
  return CompileResources(resources, layout, current).status().code();
}

spec::LinuxResources WithMemory(spec::Memory memory) {
  spec::LinuxResources resources;
  resources.memory = memory;
  return resources;
}

spec::LinuxResources WithCpu(spec::Cpu cpu) {
  spec::LinuxResources resources;
  resources.cpu = std::move(cpu);
  return resources;
}

TEST(ResourcesTest, SharesBecomeWeightsThroughTheThreeFixedPoints) {
  EXPECT_EQ(CpuSharesToWeight(0), 0u);
  EXPECT_EQ(CpuSharesToWeight(1), 1u);
  EXPECT_EQ(CpuSharesToWeight(2), 1u);
  EXPECT_EQ(CpuSharesToWeight(256), 35u);
  EXPECT_EQ(CpuSharesToWeight(1024), 100u);
  EXPECT_EQ(CpuSharesToWeight(262144), 10000u);
  EXPECT_EQ(CpuSharesToWeight(1 << 30), 10000u);
  for (uint64_t shares = 3; shares < 262144; shares += 97) {
    EXPECT_LE(CpuSharesToWeight(shares), CpuSharesToWeight(shares + 97));
  }
}

TEST(ResourcesTest, BlockWeightsAreScaledLinearly) {
  EXPECT_EQ(BlkioWeightToIoWeight(0), 0u);
  EXPECT_EQ(BlkioWeightToIoWeight(10), 1u);
  EXPECT_EQ(BlkioWeightToIoWeight(1000), 10000u);
}

TEST(ResourcesTest, NothingAskedForIsNothingWritten) {
  spec::LinuxResources zeros;
  zeros.cpu = spec::Cpu{.shares = 0, .quota = 0, .period = 0};
  zeros.memory = spec::Memory{.limit = 0, .reservation = 0, .swap = 0};
  EXPECT_THAT(Compile(zeros, V1()), IsEmpty());
  EXPECT_THAT(Compile(zeros, V2()), IsEmpty());
  EXPECT_THAT(Compile({}, Layout{}), IsEmpty());
}

TEST(ResourcesTest, CpuLimitsInBothVersions) {
  const auto resources = WithCpu(
      {.shares = 512, .quota = 50000, .burst = 1000, .period = 100000, .cpus = "0-1", .mems = "0"});
  EXPECT_THAT(Compile(resources, V1()),
              ElementsAre("cpu.shares=512", "cpu.cfs_period_us=100000", "cpu.cfs_quota_us=50000",
                          "cpu.cfs_burst_us=1000", "cpuset.cpus=0-1", "cpuset.mems=0"));
  EXPECT_THAT(Compile(resources, V2()),
              ElementsAre("cpu.weight=59", "cpu.max=50000 100000", "cpu.max.burst=1000",
                          "cpuset.cpus=0-1", "cpuset.mems=0"));
}

TEST(ResourcesTest, NoQuotaIsMinusOneInV1AndMaxInV2) {
  EXPECT_THAT(Compile(WithCpu({.quota = -1}), V1()), ElementsAre("cpu.cfs_quota_us=-1"));
  EXPECT_THAT(Compile(WithCpu({.quota = -1, .period = 50000}), V2()),
              ElementsAre("cpu.max=max 50000"));
}

TEST(ResourcesTest, APeriodAloneKeepsTheQuota) {
  EXPECT_THAT(Compile(WithCpu({.period = 50000}), V2(), {.cpu_quota = 20000}),
              ElementsAre("cpu.max=20000 50000"));
  EXPECT_THAT(Compile(WithCpu({.period = 50000}), V2()), ElementsAre("cpu.max=max 50000"));
}

TEST(ResourcesTest, TheQuotaNeverExceedsTheParentsShareDuringAnUpdate) {
  const CurrentLimits current{.cpu_quota = 50000, .cpu_period = 100000};
  EXPECT_THAT(Compile(WithCpu({.quota = 25000, .period = 50000}), V1(), current),
              ElementsAre("cpu.cfs_quota_us=25000", "cpu.cfs_period_us=50000"));
  EXPECT_THAT(Compile(WithCpu({.quota = 100000, .period = 200000}), V1(), current),
              ElementsAre("cpu.cfs_period_us=200000", "cpu.cfs_quota_us=100000"));
}

TEST(ResourcesTest, ABurstIsTakenAwayWhileTheQuotaChanges) {
  EXPECT_THAT(Compile(WithCpu({.quota = 10000, .burst = 5000}), V2(), {.cpu_quota = 50000}),
              ElementsAre("cpu.max.burst=0", "cpu.max=10000", "cpu.max.burst=5000"));
}

TEST(ResourcesTest, AnIdleGroupGetsNoShares) {
  EXPECT_THAT(Compile(WithCpu({.shares = 1024, .idle = 1}), V1()), ElementsAre("cpu.idle=1"));
  EXPECT_THAT(Compile(WithCpu({.shares = 1024, .idle = 0}), V2()),
              ElementsAre("cpu.idle=0", "cpu.weight=100"));
  EXPECT_EQ(CodeOf(WithCpu({.idle = 2}), V1()), absl::StatusCode::kInvalidArgument);
}

TEST(ResourcesTest, RealTimeLimitsExistInV1Only) {
  const auto resources = WithCpu({.realtime_runtime = 1000, .realtime_period = 1000000});
  EXPECT_THAT(Compile(resources, V1()),
              ElementsAre("cpu.rt_period_us=1000000", "cpu.rt_runtime_us=1000"));
  EXPECT_EQ(CodeOf(resources, V2()), absl::StatusCode::kFailedPrecondition);
}

TEST(ResourcesTest, SwapIsTheSumInV1AndTheDifferenceInV2) {
  const auto resources = WithMemory({.limit = 100, .reservation = 50, .swap = 150});
  EXPECT_THAT(Compile(resources, V1()),
              ElementsAre("memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150",
                          "memory.soft_limit_in_bytes=50"));
  EXPECT_THAT(Compile(resources, V2()),
              ElementsAre("memory.swap.max=50", "memory.max=100", "memory.low=50"));
  EXPECT_THAT(Compile(WithMemory({.limit = 100, .swap = -1}), V2()),
              ElementsAre("memory.swap.max=max", "memory.max=100"));
  EXPECT_THAT(Compile(WithMemory({.limit = 100, .swap = 100}), V2()),
              ElementsAre("memory.swap.max=0", "memory.max=100"));
}

TEST(ResourcesTest, TheSumOfMemoryAndSwapIsRaisedFirstAndLoweredLast) {
  const CurrentLimits current{.memory = 100, .memory_and_swap = 200};
  EXPECT_THAT(Compile(WithMemory({.limit = 300, .swap = 400}), V1(), current),
              ElementsAre("memory.memsw.limit_in_bytes=400", "memory.limit_in_bytes=300"));
  EXPECT_THAT(Compile(WithMemory({.limit = 50, .swap = 60}), V1(), current),
              ElementsAre("memory.limit_in_bytes=50", "memory.memsw.limit_in_bytes=60"));
  EXPECT_THAT(Compile(WithMemory({.limit = -1}), V1(), current),
              ElementsAre("memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"));
}

TEST(ResourcesTest, ANewMemoryLimitAloneKeepsTheSwapThatIsAllowed) {
  EXPECT_THAT(Compile(WithMemory({.limit = 300}), V1(), {.memory = 100, .memory_and_swap = 150}),
              ElementsAre("memory.memsw.limit_in_bytes=350", "memory.limit_in_bytes=300"));
  EXPECT_THAT(Compile(WithMemory({.limit = 300}), V1(), {.memory = 100}),
              ElementsAre("memory.limit_in_bytes=300"));
}

TEST(ResourcesTest, ContradictoryMemoryLimitsAreRefused) {
  for (const Layout& layout : {V1(), V2()}) {
    EXPECT_EQ(CodeOf(WithMemory({.limit = 100, .swap = 50}), layout),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(CodeOf(WithMemory({.swap = 50}), layout), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(CodeOf(WithMemory({.limit = -1, .swap = 50}), layout),
              absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(CodeOf(WithMemory({.swappiness = 101}), layout), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ResourcesTest, TheOomKillerIsDisabledInV1Only) {
  EXPECT_THAT(Compile(WithMemory({.swappiness = 10, .disable_oom_killer = true}), V1()),
              ElementsAre("memory.swappiness=10", "memory.oom_control=1"));
  EXPECT_EQ(CodeOf(WithMemory({.disable_oom_killer = true}), V2()),
            absl::StatusCode::kFailedPrecondition);
}

TEST(ResourcesTest, PidsAreLimitedOrNot) {
  spec::LinuxResources resources;
  resources.pids_limit = 32;
  EXPECT_THAT(Compile(resources, V1()), ElementsAre("pids.max=32"));
  resources.pids_limit = -1;
  EXPECT_THAT(Compile(resources, V2()), ElementsAre("pids.max=max"));
}

TEST(ResourcesTest, ALimitWithoutItsControllerIsAnErrorAndNotForgotten) {
  Layout bare;
  bare.hierarchies.push_back({"/cg", {}, true, ""});
  spec::LinuxResources pids;
  pids.pids_limit = 3;
  EXPECT_EQ(CodeOf(pids, bare), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(WithMemory({.limit = 3}), bare), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(WithCpu({.shares = 3}), bare), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(WithCpu({.cpus = "0"}), bare), absl::StatusCode::kFailedPrecondition);
}

TEST(ResourcesTest, HugePagesAreToleratedWhereTheyCannotBeLimited) {
  spec::LinuxResources resources;
  resources.hugepage_limits = {{"2MB", 0}, {"1GB", 1073741824}};
  EXPECT_THAT(Compile(resources, V2()),
              ElementsAre("hugetlb.2MB.max=0", "hugetlb.2MB.rsvd.max=0",
                          "hugetlb.1GB.max=1073741824", "hugetlb.1GB.rsvd.max=1073741824"));
  EXPECT_THAT(Compile(resources, V1()), Contains("hugetlb.2MB.rsvd.limit_in_bytes=0"));
  EXPECT_THAT(Compile(resources, Layout{}), IsEmpty());
  const auto writes = CompileResources(resources, V2());
  for (const Write& write : *writes) EXPECT_EQ(write.flags, kIgnoreMissing);
  resources.hugepage_limits = {{"2MB/../x", 0}};
  EXPECT_EQ(CodeOf(resources, V2()), absl::StatusCode::kInvalidArgument);
}

TEST(ResourcesTest, BlockIoInBothVersions) {
  spec::LinuxResources resources;
  resources.block_io = spec::BlockIo{};
  resources.block_io->weight = 500;
  resources.block_io->throttle_read_bps = {{8, 0, 1048576}};
  resources.block_io->throttle_write_iops = {{8, 16, 0}};
  EXPECT_THAT(Compile(resources, V1()), ElementsAre("blkio.weight=500", "blkio.bfq.weight=500",
                                                    "blkio.throttle.read_bps_device=8:0 1048576",
                                                    "blkio.throttle.write_iops_device=8:16 0"));
  EXPECT_THAT(Compile(resources, V2()),
              ElementsAre("io.bfq.weight=500", "io.weight=default 4950", "io.max=8:0 rbps=1048576",
                          "io.max=8:16 wiops=max"));
  resources.block_io->weight = 5;
  EXPECT_EQ(CodeOf(resources, V1()), absl::StatusCode::kInvalidArgument);
}

TEST(ResourcesTest, DeviceRulesAreWritesInV1Only) {
  spec::LinuxResources resources;
  resources.devices = {{.allow = false, .access = "rwm"},
                       {.allow = true, .type = "c", .major = 1, .minor = 3, .access = "rw"},
                       {.allow = true, .type = "b", .minor = 7, .access = "m"}};
  EXPECT_THAT(Compile(resources, V1()),
              ElementsAre("devices.deny=a", "devices.allow=c 1:3 rw", "devices.allow=b *:7 m"));
  EXPECT_THAT(Compile(resources, V2()), IsEmpty());
}

TEST(ResourcesTest, ARuleForAllTypesThatIsNarrowedOtherwiseIsSplit) {
  spec::LinuxResources resources;
  resources.devices = {{.allow = false, .type = "a"}, {.allow = true, .type = "a", .access = "m"}};
  EXPECT_THAT(Compile(resources, V1()),
              ElementsAre("devices.deny=a", "devices.allow=b *:* m", "devices.allow=c *:* m"));
}

TEST(ResourcesTest, ARuleThatV1WouldIgnoreIsRefused) {
  spec::LinuxResources resources;
  resources.devices = {{.allow = false, .type = "a"},
                       {.allow = true, .type = "c", .access = "rwm"},
                       {.allow = false, .type = "c", .major = 1, .minor = 3, .access = "w"}};
  EXPECT_EQ(CodeOf(resources, V1()), absl::StatusCode::kFailedPrecondition);
  // Taking back exactly what was given works.
  resources.devices[2] = {.allow = false, .type = "c", .access = "w"};
  EXPECT_EQ(CodeOf(resources, V1()), absl::StatusCode::kOk);
  resources.devices[2] = {.allow = false, .type = "x"};
  EXPECT_EQ(CodeOf(resources, V1()), absl::StatusCode::kInvalidArgument);
  resources.devices[2] = {.allow = false, .type = "c", .access = "rx"};
  EXPECT_EQ(CodeOf(resources, V2()), absl::StatusCode::kInvalidArgument);
}

TEST(ResourcesTest, UnifiedKeysAreWrittenLastAndLineByLine) {
  spec::LinuxResources resources = WithMemory({.limit = 100});
  resources.unified = {{"memory.high", "90"}, {"io.max", "8:0 rbps=1\n8:16 wbps=2\n"}};
  EXPECT_THAT(Compile(resources, V2()), ElementsAre("memory.max=100", "io.max=8:0 rbps=1",
                                                    "io.max=8:16 wbps=2", "memory.high=90"));
}

TEST(ResourcesTest, UnifiedKeysThatLeaveTheGroupOrMoveProcessesAreRefused) {
  for (const char* key :
       {"../memory.max", "a/memory.max", "memory..max", "", "memory", "cgroup.procs", "cgroup.kill",
        "cgroup.subtree_control", ".x", "memory.ma x"}) {
    spec::LinuxResources resources;
    resources.unified = {{key, "1"}};
    EXPECT_EQ(CodeOf(resources, V2()), absl::StatusCode::kInvalidArgument) << key;
  }
  spec::LinuxResources resources;
  resources.unified = {{"cgroup.max.depth", "1"}};
  EXPECT_EQ(CodeOf(resources, V2()), absl::StatusCode::kOk);
}

TEST(ResourcesTest, AUnifiedKeyWhoseControllerIsInV1IsRefused) {
  spec::LinuxResources resources;
  resources.unified = {{"memory.high", "1"}};
  const auto writes = CompileResources(resources, V1());
  EXPECT_EQ(writes.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(writes.status().message()), HasSubstr("memory.high"));
}

TEST(ResourcesTest, ListsHoldNothingButNumbers) {
  EXPECT_EQ(CodeOf(WithCpu({.cpus = "0;1"}), V1()), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CodeOf(WithCpu({.mems = "all"}), V1()), absl::StatusCode::kInvalidArgument);
}

TEST(ResourcesTest, TheDefaultDevicesFitIntoV1AfterADenial) {
  spec::LinuxResources resources;
  resources.devices = {{.allow = false}};
  for (const auto& rule : DefaultDeviceRules()) resources.devices.push_back(rule);
  EXPECT_THAT(Compile(resources, V1()), Contains("devices.allow=c 1:3 rwm"));
}

}  // namespace
}  // namespace davit::runtime::cgroup
