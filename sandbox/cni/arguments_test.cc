#include "sandbox/cni/arguments.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace davit::sandbox::cni {
namespace {

Request Valid() {
  Request request;
  request.sandbox_id = "abc123";
  request.netns_path = "/run/netns/x";
  request.pod_name = "web";
  request.pod_namespace = "default";
  request.pod_uid = "u-1";
  return request;
}

TEST(ArgumentsTest, CniArgsNameThePod) {
  EXPECT_EQ(*MakeCniArgs(Valid()),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;"
            "K8S_POD_INFRA_CONTAINER_ID=abc123;K8S_POD_UID=u-1");
  Request request = Valid();
  request.pod_name = "web;K8S_POD_NAMESPACE=kube-system";
  EXPECT_EQ(MakeCniArgs(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ArgumentsTest, MalformedRequestsAreRefused) {
  EXPECT_TRUE(CheckRequest(Valid()).ok());
  for (const char* id : {"", "../x", "a/b", "-a", ".x", "a b"}) {
    Request request = Valid();
    request.sandbox_id = id;
    EXPECT_EQ(CheckRequest(request).code(), absl::StatusCode::kInvalidArgument) << id;
  }
  for (const char* name : {"", "..", "a/b", "a:b", "0123456789abcdef"}) {
    Request request = Valid();
    request.interface = name;
    EXPECT_FALSE(CheckRequest(request).ok()) << name;
  }
  Request request = Valid();
  request.netns_path = "netns";
  EXPECT_FALSE(CheckRequest(request).ok());
  request = Valid();
  request.port_mappings = {{"tcp", 80, 70000, ""}};
  EXPECT_FALSE(CheckRequest(request).ok());
}

TEST(ArgumentsTest, OnlyWhatThePodAsksForIsAnArgument) {
  EXPECT_EQ(*MakeCapabilityArgs(Valid()), "{}");
  Request request = Valid();
  request.port_mappings = {{"UDP", 53, 5353, "127.0.0.1"}, {"tcp", 80, 0, ""}};
  EXPECT_EQ(*MakeCapabilityArgs(request),
            R"({"portMappings":[{"containerPort":53,"hostIP":"127.0.0.1","hostPort":5353,)"
            R"("protocol":"udp"}]})");
  request = Valid();
  request.dns = DnsConfig{{"10.0.0.10"}, {"svc"}, {"ndots:5"}};
  EXPECT_EQ(*MakeCapabilityArgs(request),
            R"({"dns":{"options":["ndots:5"],"searches":["svc"],"servers":["10.0.0.10"]}})");
}

TEST(ArgumentsTest, MoreThanCanBeReadAgainIsRefusedBeforeAnythingIsRecorded) {
  Request request = Valid();
  request.annotations["large"] = std::string(1 << 20, 'x');
  EXPECT_EQ(MakeCapabilityArgs(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ArgumentsTest, BandwidthComesFromAnnotations) {
  Request request = Valid();
  request.annotations = {{"kubernetes.io/ingress-bandwidth", "10M"}};
  EXPECT_THAT(
      *MakeCapabilityArgs(request),
      testing::HasSubstr(R"("bandwidth":{"ingressBurst":2147483647,"ingressRate":10000000})"));
  request.annotations = {{"kubernetes.io/egress-bandwidth", "fast"}};
  EXPECT_EQ(MakeCapabilityArgs(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ArgumentsTest, QuantitiesOfKubernetes) {
  EXPECT_EQ(*ParseQuantity("1"), 1u);
  EXPECT_EQ(*ParseQuantity("1500m"), 2u);
  EXPECT_EQ(*ParseQuantity("10k"), 10000u);
  EXPECT_EQ(*ParseQuantity("1.5Gi"), 1610612736u);
  EXPECT_EQ(*ParseQuantity("1e6"), 1000000u);
  for (const char* bad : {"", "M", "x", "-1", "1Q", "1 M", "nan", "1e99", "0x10"}) {
    EXPECT_FALSE(ParseQuantity(bad).ok()) << bad;
  }
}

TEST(ArgumentsTest, APluginGetsTheCapabilitiesThatItDeclares) {
  const auto input = MakePluginInput(
      R"({"type":"portmap","capabilities":{"portMappings":true,"dns":false,"mac":true},
          "runtimeConfig":{"mac":"forged"},"prevResult":{"forged":1}})",
      "net", "1.0.0", R"({"portMappings":[1],"dns":{}})", R"({"ips":[]})");
  ASSERT_TRUE(input.ok()) << input.status();
  EXPECT_EQ(*input, R"({"cniVersion":"1.0.0","name":"net","prevResult":{"ips":[]},)"
                    R"("runtimeConfig":{"portMappings":[1]},"type":"portmap"})");
  EXPECT_EQ(*MakePluginInput(R"({"type":"bridge","isGateway":true})", "net", "1.0.0",
                             R"({"portMappings":[1]})", ""),
            R"({"cniVersion":"1.0.0","isGateway":true,"name":"net","type":"bridge"})");
}

}  // namespace
}  // namespace davit::sandbox::cni
