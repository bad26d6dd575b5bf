#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"
#include "sandbox/cni/network.h"

// Debian's real plugins: bridge, host-local and portmap. Everything happens in a network namespace
// and a mount namespace of the test's own, so that no bridge, rule or lease of the machine is
// touched.
namespace davit::sandbox::cni {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

std::string RunTool(const std::string& command) {
  sys::SpawnOptions options;
  options.path = "/bin/sh";
  options.argv = {"sh", "-c", command};
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  const auto result = sys::RunCommand(options, "", 1 << 20, Soon());
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? absl::StrCat(result->out, result->err) : "";
}

class PluginsTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    ASSERT_EQ(unshare(CLONE_NEWNET | CLONE_NEWNS), 0);
    ASSERT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    ASSERT_TRUE(sys::MakeDirs("/run/netns", 0755).ok());
    ASSERT_EQ(mount("tmpfs", "/run/netns", "tmpfs", 0, nullptr), 0);
    RunTool("ip link set lo up");
  }

  void SetUp() override {
    char pattern[] = "/tmp/davit-cni-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    path_ = pattern;
    ASSERT_TRUE(sys::MakeDirs(path_ + "/conf", 0755).ok());
    Configure(R"([{"subnet":"10.88.0.0/24"}])");
    NetworkOptions options;
    options.conf_dir = path_ + "/conf";
    options.bin_dirs = {"/usr/lib/cni"};
    options.state_dir = path_ + "/state";
    auto network = Network::Open(options);
    ASSERT_TRUE(network.ok()) << network.status();
    network_ = *std::move(network);
    ASSERT_TRUE(network_->Status().ready) << network_->Status().message;
    RunTool("ip netns add pod1");
  }
  void TearDown() override {
    RunTool("ip netns del pod1 2>/dev/null; ip link del cni-davit 2>/dev/null");
    EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, path_).ok());
  }

  void Configure(const std::string& range) {
    const std::string text = absl::StrCat(
        R"({"cniVersion":"1.0.0","name":"davit-test","plugins":[{"type":"bridge","bridge":)",
        R"("cni-davit","isGateway":true,"ipMasq":true,"hairpinMode":true,"ipam":{"type":)",
        R"("host-local","dataDir":")", path_, R"(/leases","ranges":[)", range,
        R"(],"routes":[{"dst":"0.0.0.0/0"}]}},)",
        R"({"type":"portmap","capabilities":{"portMappings":true}}]})");
    const std::string file = path_ + "/conf/10.conflist";
    auto fd = sys::OpenAt(AT_FDCWD, file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    ASSERT_TRUE(fd.ok() && sys::WriteAll(fd->get(), text, file).ok());
  }

  std::string Leases() { return RunTool(absl::StrCat("ls ", path_, "/leases/davit-test")); }

  static Request Pod() {
    Request request;
    request.sandbox_id = "pod1";
    request.netns_path = "/run/netns/pod1";
    request.pod_name = "web";
    request.pod_namespace = "default";
    request.pod_uid = "1";
    request.port_mappings = {{"tcp", 80, 8080, ""}};
    return request;
  }

  std::string path_;
  std::unique_ptr<Network> network_;
};

TEST_F(PluginsTest, APodGetsAnAddressAndAPortAndGivesThemBack) {
  const auto result = network_->Add(Pod(), Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->ips, ElementsAre("10.88.0.2"));
  EXPECT_THAT(RunTool("ip -n pod1 -4 -o addr show eth0"), HasSubstr("10.88.0.2/24"));
  EXPECT_THAT(RunTool("ip -n pod1 route"), HasSubstr("default via 10.88.0.1"));
  EXPECT_THAT(RunTool("iptables -t nat -S"), HasSubstr("8080"));
  EXPECT_THAT(Leases(), HasSubstr("10.88.0.2"));
  const absl::Status deleted = network_->Del("pod1", Soon());
  ASSERT_TRUE(deleted.ok()) << deleted;
  EXPECT_THAT(Leases(), testing::Not(HasSubstr("10.88.0.2")));
  EXPECT_THAT(RunTool("ip -n pod1 link"), testing::Not(HasSubstr("eth0")));
  EXPECT_THAT(RunTool("iptables -t nat -S"), testing::Not(HasSubstr("8080")));
  EXPECT_TRUE(network_->Del("pod1", Soon()).ok());
}

TEST_F(PluginsTest, ADeletedNamespaceGivesItsLeaseBackAllTheSame) {
  ASSERT_TRUE(network_->Add(Pod(), Soon()).ok());
  RunTool("ip netns del pod1");
  const absl::Status deleted = network_->Del("pod1", Soon());
  EXPECT_TRUE(deleted.ok()) << deleted;
  EXPECT_THAT(Leases(), testing::Not(HasSubstr("10.88.0.2")));
  EXPECT_THAT(RunTool("iptables -t nat -S"), testing::Not(HasSubstr("8080")));
  EXPECT_TRUE(network_->List().empty());
}

TEST_F(PluginsTest, APodPassesTheCheckUntilItIsChanged) {
  // Without a port: portmap 1.1.1 looks for IPv6 rules of a pod that has no IPv6 address.
  Request request = Pod();
  request.port_mappings.clear();
  ASSERT_TRUE(network_->Add(request, Soon()).ok());
  const absl::Status checked = network_->Check("pod1", Soon());
  EXPECT_TRUE(checked.ok()) << checked;
  RunTool("ip -n pod1 addr flush dev eth0");
  EXPECT_FALSE(network_->Check("pod1", Soon()).ok());
  EXPECT_TRUE(network_->Del("pod1", Soon()).ok());
}

TEST_F(PluginsTest, ADualStackPodHasBothAddresses) {
  Configure(R"([{"subnet":"10.88.0.0/24"}],[{"subnet":"fd00:88::/64"}])");
  const auto result = network_->Add(Pod(), Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->ips, ElementsAre("10.88.0.2", "fd00:88::2"));
  EXPECT_TRUE(network_->Del("pod1", Soon()).ok());
}

TEST_F(PluginsTest, WhenAddressesRunOutNothingIsLeftBehind) {
  Configure(R"([{"subnet":"10.88.0.0/24","rangeStart":"10.88.0.9","rangeEnd":"10.88.0.9"}])");
  ASSERT_TRUE(network_->Add(Pod(), Soon()).ok());
  RunTool("ip netns add pod2");
  Request second = Pod();
  second.sandbox_id = "pod2";
  second.netns_path = "/run/netns/pod2";
  const auto result = network_->Add(second, Soon());
  EXPECT_FALSE(result.ok());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("bridge"));
  EXPECT_THAT(RunTool("ip -n pod2 link"), testing::Not(HasSubstr("eth0")));
  EXPECT_EQ(network_->List().size(), 1u);
  EXPECT_TRUE(network_->Del("pod1", Soon()).ok());
  RunTool("ip netns del pod2");
}

}  // namespace
}  // namespace davit::sandbox::cni
