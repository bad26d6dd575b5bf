#include "cri/resources.h"

#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

TEST(ResourcesTest, NothingSetIsNothingLimited) {
  const auto to = TranslateResources(v1::LinuxContainerResources());
  ASSERT_TRUE(to.ok());
  EXPECT_FALSE(to->memory.has_value());
  EXPECT_FALSE(to->cpu.has_value());
  EXPECT_TRUE(to->unified.empty());
  EXPECT_TRUE(to->hugepage_limits.empty());
}

TEST(ResourcesTest, LimitsArrive) {
  v1::LinuxContainerResources from;
  from.set_cpu_period(100000);
  from.set_cpu_quota(20000);
  from.set_cpu_shares(1024);
  from.set_memory_limit_in_bytes(64 << 20);
  from.set_memory_swap_limit_in_bytes(128 << 20);
  from.set_cpuset_cpus("0-1,3");
  from.set_cpuset_mems("0");
  (*from.mutable_unified())["memory.oom.group"] = "1";
  const auto to = TranslateResources(from);
  ASSERT_TRUE(to.ok()) << to.status();
  EXPECT_EQ(to->cpu->period, 100000u);
  EXPECT_EQ(to->cpu->quota, 20000);
  EXPECT_EQ(to->cpu->shares, 1024u);
  EXPECT_EQ(to->cpu->cpus, "0-1,3");
  EXPECT_EQ(to->cpu->mems, "0");
  EXPECT_EQ(to->memory->limit, 64 << 20);
  EXPECT_EQ(to->memory->swap, 128 << 20);
  EXPECT_EQ(to->unified.at("memory.oom.group"), "1");
}

TEST(ResourcesTest, AMemoryLimitAloneAllowsNoSwap) {
  v1::LinuxContainerResources from;
  from.set_memory_limit_in_bytes(1 << 20);
  const auto to = TranslateResources(from);
  ASSERT_TRUE(to.ok());
  EXPECT_EQ(to->memory->swap, 1 << 20);
}

TEST(ResourcesTest, HugePagesOfSizesThatTheMachineLacksAreIgnored) {
  v1::LinuxContainerResources from;
  auto* limit = from.add_hugepage_limits();
  limit->set_page_size("77MB");
  const auto to = TranslateResources(from);
  ASSERT_TRUE(to.ok()) << to.status();
  EXPECT_TRUE(to->hugepage_limits.empty());
  limit->set_page_size("many");
  EXPECT_EQ(TranslateResources(from).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ResourcesTest, ValuesOutOfRangeAreInvalid) {
  const auto invalid = [](auto set) {
    v1::LinuxContainerResources from;
    set(&from);
    return TranslateResources(from).status().code() == absl::StatusCode::kInvalidArgument;
  };
  using R = v1::LinuxContainerResources;
  EXPECT_TRUE(invalid([](R* r) { r->set_cpu_shares(-1); }));
  EXPECT_TRUE(invalid([](R* r) { r->set_cpu_shares(262145); }));
  EXPECT_TRUE(invalid([](R* r) { r->set_cpu_period(999); }));
  EXPECT_TRUE(invalid([](R* r) { r->set_cpu_quota(-2); }));
  EXPECT_TRUE(invalid([](R* r) { r->set_memory_limit_in_bytes(-2); }));
  EXPECT_TRUE(invalid([](R* r) {
    r->set_memory_limit_in_bytes(2000);
    r->set_memory_swap_limit_in_bytes(1000);
  }));
  EXPECT_TRUE(invalid([](R* r) { r->set_cpuset_cpus("0;1"); }));
  EXPECT_TRUE(invalid([](R* r) { (*r->mutable_unified())["../memory.max"] = "1"; }));
  EXPECT_TRUE(invalid([](R* r) { (*r->mutable_unified())["memory"] = "1"; }));
}

TEST(ResourcesTest, OomScoreAdjustmentIsClampedToWhatTheDaemonMaySet) {
  EXPECT_EQ(TranslateOomScoreAdj(-997, 0).value_or(-1), 0);
  EXPECT_EQ(TranslateOomScoreAdj(-997, -1000).value_or(-1), -997);
  EXPECT_EQ(TranslateOomScoreAdj(1000, 0).value_or(-1), 1000);
  EXPECT_FALSE(TranslateOomScoreAdj(1001, 0).ok());
}

TEST(ResourcesTest, AnUpdateChangesWhatItNames) {
  v1::LinuxContainerResources current;
  current.set_cpu_shares(512);
  current.set_memory_limit_in_bytes(1000);
  current.set_memory_swap_limit_in_bytes(1000);
  (*current.mutable_unified())["memory.low"] = "1";
  v1::LinuxContainerResources update;
  update.set_memory_limit_in_bytes(2000);
  (*update.mutable_unified())["memory.high"] = "5";
  MergeResources(update, &current);
  EXPECT_EQ(current.cpu_shares(), 512);
  EXPECT_EQ(current.memory_limit_in_bytes(), 2000);
  EXPECT_EQ(current.memory_swap_limit_in_bytes(), 0);
  EXPECT_EQ(current.unified().size(), 2u);
}

}  // namespace
}  // namespace davit::cri
