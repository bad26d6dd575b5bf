#include "sandbox/process_limits.h"

#include <linux/capability.h>

#include "gtest/gtest.h"
#include "runtime/sys/capability.h"

namespace davit::sandbox {
namespace {

TEST(ProcessLimitsTest, TheCeilingIsWhatThisProcessHas) {
  const auto limits = ReadProcessLimits();
  ASSERT_TRUE(limits.ok()) << limits.status();
  EXPECT_EQ(limits->capability_ceiling, *sys::PermittedCapabilities());
  const bool unlimited = (limits->capability_ceiling & sys::CapabilityBit(CAP_SYS_RESOURCE)) != 0;
  if (unlimited) {
    EXPECT_EQ(limits->oom_score_adj_floor, -1000);
    EXPECT_TRUE(limits->rlimit_ceiling.empty());
  } else {
    EXPECT_GE(limits->oom_score_adj_floor, -1000);
    EXPECT_FALSE(limits->rlimit_ceiling.empty()) << "RLIMIT_NOFILE is never infinite";
  }
}

TEST(ProcessLimitsTest, AnUnlimitedDaemonHasNothingToSay) {
  ProcessLimits limits;
  limits.capability_ceiling = ~uint64_t{0};
  EXPECT_TRUE(DescribeLimits(limits, (uint64_t{1} << 41) - 1).empty());
}

TEST(ProcessLimitsTest, EachLimitIsOneSentenceThatNamesIt) {
  ProcessLimits limits;
  limits.capability_ceiling = ~sys::CapabilityBit(CAP_SYS_RESOURCE);
  limits.oom_score_adj_floor = 0;
  limits.rlimit_ceiling = {{"RLIMIT_NOFILE", 20000, 20000}};
  const auto sentences = DescribeLimits(limits, (uint64_t{1} << 41) - 1);
  ASSERT_EQ(sentences.size(), 3u);
  EXPECT_NE(sentences[0].find("CAP_SYS_RESOURCE"), std::string::npos);
  EXPECT_EQ(sentences[0].find("CAP_CHOWN"), std::string::npos);
  EXPECT_NE(sentences[1].find("below 0"), std::string::npos);
  EXPECT_NE(sentences[2].find("RLIMIT_NOFILE 20000"), std::string::npos);
}

}  // namespace
}  // namespace davit::sandbox
