#include "sandbox/supervisor/pod_setup.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

TEST(PodSetupTest, SysctlNamesBecomePathsWhateverTheirSeparator) {
  EXPECT_EQ(*SysctlPath("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
  EXPECT_EQ(*SysctlPath("net/ipv4/conf/eth0.100/forwarding"), "net/ipv4/conf/eth0.100/forwarding");
  EXPECT_EQ(*SysctlPath("net.ipv4.conf.eth0/100.forwarding"), "net/ipv4/conf/eth0.100/forwarding");
}

TEST(PodSetupTest, SysctlNamesThatLeaveTheirDirectoryAreRefused) {
  for (const char* name : {"", ".", "..", "net..core", "../etc/passwd", "net/../kernel", "/kernel",
                           "kernel/", "net.ipv4.", ".net"}) {
    EXPECT_EQ(SysctlPath(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

TEST(PodSetupTest, RemovingABindingThatIsNotThereSucceeds) {
  EXPECT_TRUE(RemoveNetnsBinding("").ok());
  EXPECT_TRUE(RemoveNetnsBinding("/tmp/davit-no-such-netns").ok());
  char path[] = "/tmp/davit-netns-XXXXXX";
  close(mkstemp(path));
  EXPECT_TRUE(RemoveNetnsBinding(path).ok());  // never mounted: the file alone
  EXPECT_NE(access(path, F_OK), 0);
}

}  // namespace
}  // namespace davit::sandbox
