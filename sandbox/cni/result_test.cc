#include "sandbox/cni/result.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace davit::sandbox::cni {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(ResultTest, AddressesOfTheSandboxInTheirOrder) {
  const auto ips = ParseResultIps(
      R"({"cniVersion":"1.0.0",
          "interfaces":[{"name":"cni0"},{"name":"veth1"},{"name":"eth0","sandbox":"/run/netns/x"}],
          "ips":[{"address":"fd00:0::5/64","interface":2},{"address":"10.0.0.1/24","interface":0},
                 {"address":"10.0.0.5/24","interface":2}]})");
  ASSERT_TRUE(ips.ok()) << ips.status();
  EXPECT_THAT(*ips, ElementsAre("fd00::5", "10.0.0.5"));
}

TEST(ResultTest, AddressesWithoutInterfacesAreThePods) {
  EXPECT_THAT(*ParseResultIps(R"({"ips":[{"version":"4","address":"10.0.0.5/24"}]})"),
              ElementsAre("10.0.0.5"));
  EXPECT_THAT(*ParseResultIps(R"({"ips":[{"address":"10.0.0.5/24","interface":7}]})"),
              ElementsAre("10.0.0.5"));
}

TEST(ResultTest, TheOldestForms) {
  EXPECT_THAT(*ParseResultIps(R"({"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.5/24"},
                                  "ip6":{"ip":"fd00::5/64"}})"),
              ElementsAre("10.0.0.5", "fd00::5"));
}

TEST(ResultTest, NoAddressesIsAnEmptyListAndNonsenseAnError) {
  EXPECT_THAT(*ParseResultIps("{}"), IsEmpty());
  for (const char* text : {"", "[]", "null", "hello", R"({"ips":[{"address":"10.0.0.300/24"}]})",
                           R"({"ips":["10.0.0.1"]})", R"({"ips":[{"address":7}]})",
                           R"({"ips":[{}]})", R"({"ip4":{"ip":"x"}})"}) {
    EXPECT_EQ(ParseResultIps(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

}  // namespace
}  // namespace davit::sandbox::cni
