#include "runtime/sys/capability.h"

#include <linux/capability.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace davit::sys {
namespace {

TEST(CapabilityTest, NamesAndNumbersAreInverse) {
  for (int number = 0; number <= CAP_LAST_CAP; ++number) {
    EXPECT_EQ(CapabilityNumber(CapabilityName(number)), number);
  }
  EXPECT_EQ(CapabilityName(CAP_SYS_ADMIN), "CAP_SYS_ADMIN");
  EXPECT_EQ(CapabilityName(CAP_CHECKPOINT_RESTORE), "CAP_CHECKPOINT_RESTORE");
  EXPECT_EQ(CapabilityName(57), "CAP_57");
}

TEST(CapabilityTest, PrefixAndCaseDoNotMatter) {
  EXPECT_EQ(CapabilityNumber("net_raw"), CAP_NET_RAW);
  EXPECT_EQ(CapabilityNumber("CAP_net_RAW"), CAP_NET_RAW);
  EXPECT_EQ(CapabilityNumber("NET_RAW"), CAP_NET_RAW);
}

TEST(CapabilityTest, UnknownNamesAreRefused) {
  EXPECT_EQ(CapabilityNumber(""), std::nullopt);
  EXPECT_EQ(CapabilityNumber("CAP_"), std::nullopt);
  EXPECT_EQ(CapabilityNumber("ALL"), std::nullopt);
  EXPECT_EQ(CapabilityNumber("CAP_CAP_CHOWN"), std::nullopt);
}

TEST(CapabilityTest, SetsAreListedInNumericOrder) {
  EXPECT_THAT(CapabilityNames(CapabilityBit(CAP_KILL) | CapabilityBit(CAP_CHOWN)),
              testing::ElementsAre("CAP_CHOWN", "CAP_KILL"));
}

TEST(CapabilityTest, OwnSetsLieWithinWhatTheKernelHas) {
  const auto last = LastCapability();
  ASSERT_TRUE(last.ok()) << last.status();
  const auto permitted = PermittedCapabilities();
  const auto bounding = BoundingCapabilities();
  ASSERT_TRUE(permitted.ok() && bounding.ok());
  EXPECT_GE(*last, CAP_AUDIT_READ);
  const uint64_t known = (CapabilityBit(*last) << 1) - 1;
  EXPECT_EQ(*permitted & ~known, 0u);
  EXPECT_EQ(*bounding & ~known, 0u);
  EXPECT_NE(*permitted & CapabilityBit(CAP_CHOWN), 0u);
}

}  // namespace
}  // namespace davit::sys
