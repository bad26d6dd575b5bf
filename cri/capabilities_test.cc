#include "cri/capabilities.h"

#include <linux/capability.h>

#include "gtest/gtest.h"
#include "runtime/sys/capability.h"

namespace davit::cri {
namespace {

constexpr uint64_t kAvailable = ((uint64_t{1} << 41) - 1) & ~(uint64_t{1} << CAP_SYS_RESOURCE);

uint64_t Build(const CapabilityRequest& request) {
  uint64_t set = 0;
  const auto capabilities = BuildCapabilities(request, kAvailable, &set);
  EXPECT_TRUE(capabilities.ok()) << capabilities.status();
  if (capabilities.ok()) {
    EXPECT_EQ(capabilities->bounding, sys::CapabilityNames(set));
    EXPECT_EQ(capabilities->effective, capabilities->bounding);
    EXPECT_EQ(capabilities->permitted, capabilities->bounding);
  }
  return set;
}

bool Has(uint64_t set, int capability) { return (set & sys::CapabilityBit(capability)) != 0; }

TEST(CapabilitiesTest, TheDefaultIsTheFourteenOfThePeers) {
  uint64_t set = 0;
  const auto capabilities = BuildCapabilities({}, kAvailable, &set);
  ASSERT_TRUE(capabilities.ok());
  EXPECT_EQ(capabilities->bounding,
            (std::vector<std::string>{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID",
                                      "CAP_KILL", "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP",
                                      "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT",
                                      "CAP_MKNOD", "CAP_AUDIT_WRITE", "CAP_SETFCAP"}));
  EXPECT_TRUE(capabilities->inheritable.empty());
  EXPECT_TRUE(capabilities->ambient.empty());
}

TEST(CapabilitiesTest, NamesComeWithOrWithoutPrefixAndInAnyCase) {
  EXPECT_TRUE(Has(Build({{"NET_ADMIN"}, {}, {}, false}), CAP_NET_ADMIN));
  EXPECT_TRUE(Has(Build({{"CAP_NET_ADMIN"}, {}, {}, false}), CAP_NET_ADMIN));
  EXPECT_FALSE(Has(Build({{}, {"net_raw"}, {}, false}), CAP_NET_RAW));
}

TEST(CapabilitiesTest, AllIsWhatTheDaemonHasAndSinglesApplyAfterIt) {
  EXPECT_EQ(Build({{"ALL"}, {}, {}, false}), kAvailable);
  EXPECT_EQ(Build({{}, {"ALL"}, {}, false}), 0u);
  EXPECT_EQ(Build({{"CHOWN"}, {"all"}, {}, false}), sys::CapabilityBit(CAP_CHOWN));
  EXPECT_EQ(Build({{"ALL"}, {"NET_RAW"}, {}, false}),
            kAvailable & ~sys::CapabilityBit(CAP_NET_RAW));
  EXPECT_EQ(Build({{}, {"ALL"}, {}, true}), kAvailable) << "privileged overrides";
}

TEST(CapabilitiesTest, AmbientOnesAreInheritableToo) {
  uint64_t set = 0;
  const auto capabilities =
      BuildCapabilities({{}, {"ALL"}, {"NET_BIND_SERVICE"}, false}, kAvailable, &set);
  ASSERT_TRUE(capabilities.ok());
  const std::vector<std::string> expected = {"CAP_NET_BIND_SERVICE"};
  EXPECT_EQ(capabilities->ambient, expected);
  EXPECT_EQ(capabilities->inheritable, expected);
  EXPECT_EQ(capabilities->permitted, expected);
}

TEST(CapabilitiesTest, UnknownAndUngrantableNamesAreErrors) {
  uint64_t set = 0;
  EXPECT_EQ(BuildCapabilities({{"NO_SUCH"}, {}, {}, false}, kAvailable, &set).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BuildCapabilities({{}, {"CAP_"}, {}, false}, kAvailable, &set).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(BuildCapabilities({{"SYS_RESOURCE"}, {}, {}, false}, kAvailable, &set).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace davit::cri
