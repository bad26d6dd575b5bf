#include "sandbox/pod_sysctls.h"

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

using Map = std::map<std::string, std::string>;

TEST(PodSysctlsTest, APodWithItsOwnNetworkMayBindLowPortsAndPing) {
  EXPECT_EQ(*PodSysctls(PodSpec()), (Map{{"net.ipv4.ip_unprivileged_port_start", "0"},
                                         {"net.ipv4.ping_group_range", "0 2147483647"}}));
  PodSpec host;
  host.network = NamespaceMode::kNode;
  EXPECT_TRUE(PodSysctls(host)->empty()) << "the node's own settings stay";
}

TEST(PodSysctlsTest, ThePodsValuesWinOverTheDefaults) {
  PodSpec spec;
  spec.sysctls = {{"net/ipv4/ip_unprivileged_port_start", "1024"}, {"kernel.shm_rmid_forced", "1"}};
  const auto sysctls = PodSysctls(spec);
  ASSERT_TRUE(sysctls.ok()) << sysctls.status();
  EXPECT_EQ(sysctls->at("net.ipv4.ip_unprivileged_port_start"), "1024");
  EXPECT_EQ(sysctls->at("kernel.shm_rmid_forced"), "1");
}

TEST(PodSysctlsTest, ADotInsideASlashedNameIsKept) {
  PodSpec spec;
  spec.sysctls = {{"net/ipv4/conf/eth0.1/forwarding", "1"}};
  EXPECT_EQ(PodSysctls(spec)->count("net.ipv4.conf.eth0/1.forwarding"), 1u);
}

TEST(PodSysctlsTest, WhatWouldChangeTheNodeIsRefused) {
  for (const char* name : {"vm.swappiness", "kernel.panic", "kernel.domainname", "net", ""}) {
    PodSpec spec;
    spec.sysctls = {{name, "1"}};
    EXPECT_EQ(PodSysctls(spec).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  PodSpec host;
  host.network = host.ipc = NamespaceMode::kNode;
  for (const char* name : {"net.core.somaxconn", "kernel.shmmax", "fs.mqueue.msg_max"}) {
    host.sysctls = {{name, "1"}};
    EXPECT_EQ(PodSysctls(host).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(PodSysctlsTest, ANameThatLeavesItsFolderIsRefused) {
  for (const char* name : {"net.../../vm/swappiness", "net/../vm/swappiness", "net..x"}) {
    PodSpec spec;
    spec.sysctls = {{name, "1"}};
    EXPECT_EQ(PodSysctls(spec).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

}  // namespace
}  // namespace davit::sandbox
