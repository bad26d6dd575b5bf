#include "cri/sysctls.h"

#include "gtest/gtest.h"

namespace davit::cri {
namespace {

using Map = std::map<std::string, std::string>;

TEST(SysctlsTest, NamespacedOnesPassAndSlashesBecomeDots) {
  const auto checked = CheckSysctls({{"kernel.shm_rmid_forced", "1"},
                                     {"fs.mqueue.msg_max", "100"},
                                     {"net/core/somaxconn", "1024"},
                                     {"net/ipv4/conf/eth0.100/forwarding", "1"},
                                     {"kernel.domainname", "x"}},
                                    {});
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_EQ(*checked, (Map{{"fs.mqueue.msg_max", "100"},
                           {"kernel.domainname", "x"},
                           {"kernel.shm_rmid_forced", "1"},
                           {"net.core.somaxconn", "1024"},
                           {"net.ipv4.conf.eth0/100.forwarding", "1"}}));
}

TEST(SysctlsTest, WhatWouldChangeTheNodeIsRefused) {
  const auto code = [](const Map& sysctls, const SysctlScope& scope) {
    return CheckSysctls(sysctls, scope).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({{"net.core.somaxconn", "1"}}, {true, false}), invalid);
  EXPECT_EQ(code({{"fs.mqueue.msg_max", "1"}}, {false, true}), invalid);
  EXPECT_EQ(code({{"kernel.shmmax", "1"}}, {false, true}), invalid);
  for (const char* name : {"vm.swappiness", "kernel.core_pattern", "kernel.hostname", "fs.file-max",
                           "kernel.shmfoo", "net", "", "net..core", "net.core.../../x", ".net"}) {
    EXPECT_EQ(code({{name, "1"}}, {}), invalid) << name;
  }
  EXPECT_EQ(code({{"net.core.somaxconn", "1\n2"}}, {}), invalid);
  EXPECT_EQ(code({{"net.core.somaxconn", "1"}, {"net/core/somaxconn", "2"}}, {}), invalid);
}

}  // namespace
}  // namespace davit::cri
