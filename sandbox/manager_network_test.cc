#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/state.pb.h"
#include "runtime/sys/file.h"
#include "sandbox/manager.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/records.h"
#include "sandbox/testing_node.h"

// Pods with a network of their own: CNI plugins, real and otherwise. The whole test runs in a
// network namespace of its own, so that the machine's is not touched.
namespace davit::sandbox {
namespace {

using testing::Node;

constexpr char kGoodPlugin[] = R"(
if [ "$CNI_COMMAND" = ADD ]; then
  test -e "$CNI_NETNS" || exit 1
  echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "x"}],
         "ips": [{"address": "10.9.8.7/24", "interface": 0},
                 {"address": "fd09::7/64", "interface": 0}]}'
fi
)";

class NetworkEnvironment : public ::testing::Environment {
 public:
  void SetUp() override { ASSERT_EQ(unshare(CLONE_NEWNET), 0) << strerror(errno); }
};
const auto* const kEnvironment = ::testing::AddGlobalTestEnvironment(new NetworkEnvironment);

class ManagerNetworkTest : public testing::ManagerFixture {};

TEST_F(ManagerNetworkTest, WithoutAConfigurationOnlyHostNetworkPodsRun) {
  Start();
  EXPECT_FALSE(node_->Network().ready);
  EXPECT_EQ(node_->Network().reason, "NetworkPluginNotReady");
  const auto refused = node_->RunPod(node_.NetworkPod("net"));
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(refused.status().message(), "NetworkPluginNotReady"))
      << refused.status();
  ExpectNothingLeft();
  const auto host = node_->RunPod(node_.HostPod("host"));
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_TRUE(node_.RemovePod(*host).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerNetworkTest, APodIsAttachedAndDetachedAndShowsItsAddresses) {
  node_.InstallPlugin(kGoodPlugin);
  Start();
  EXPECT_TRUE(node_->Network().ready);
  const auto pod = node_->RunPod(node_.NetworkPod("web"));
  ASSERT_TRUE(pod.ok()) << pod.status();
  auto view = *node_->FindPod(*pod);
  EXPECT_EQ(view->ips, (std::vector<std::string>{"10.9.8.7", "fd09::7"}));
  EXPECT_EQ(access(view->netns_path.c_str(), F_OK), 0);
  EXPECT_TRUE(absl::StrContains(view->cni_result, "10.9.8.7"));

  const auto id = node_.Run(node_.Container(*pod, "c", {"/bin/sleep", "1000"}));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(node_.Exec(*id, {"/bin/hostname"})->out, "web\n");
  EXPECT_EQ(node_.Exec(*id, {"/bin/cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"})->out,
            "0\n");
  // The pod's namespace has nothing but loopback, which is up: the plugin made no interface.
  EXPECT_TRUE(absl::StrContains(node_.Exec(*id, {"/bin/cat", "/proc/net/dev"})->out, "lo:"));

  EXPECT_TRUE(node_.StopPod(*pod).ok());
  view = *node_->FindPod(*pod);
  EXPECT_TRUE(view->ips.empty());
  EXPECT_NE(access(view->netns_path.c_str(), F_OK), 0) << "the binding is gone";
  EXPECT_EQ(node_.PluginLog(), absl::StrCat("ADD ", *pod, "\nDEL ", *pod, "\n"));
  EXPECT_TRUE(node_.StopPod(*pod).ok());
  EXPECT_TRUE(node_.RemovePod(*pod).ok());
  EXPECT_EQ(node_.PluginLog(), absl::StrCat("ADD ", *pod, "\nDEL ", *pod, "\n"));
  ExpectNothingLeft();
}

TEST_F(ManagerNetworkTest, AFailedAddLeavesNothing) {
  node_.InstallPlugin(R"(
if [ "$CNI_COMMAND" = ADD ]; then
  echo '{"cniVersion": "1.0.0", "code": 11, "msg": "no addresses left"}'
  exit 1
fi
)");
  Start();
  const auto pod = node_->RunPod(node_.NetworkPod("failing"));
  EXPECT_FALSE(pod.ok());
  EXPECT_TRUE(absl::StrContains(pod.status().message(), "no addresses left")) << pod.status();
  EXPECT_TRUE(absl::StrContains(node_.PluginLog(), "DEL ")) << "also after a failed ADD";
  EXPECT_TRUE(node_->ListPods().empty());
  ExpectNothingLeft();
  // The name is free.
  node_.InstallPlugin(kGoodPlugin);
  const auto again = node_->RunPod(node_.NetworkPod("failing"));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_TRUE(node_.RemovePod(*again).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerNetworkTest, APluginThatHangsIsEndedAndLeavesNothing) {
  node_.options().cni_timeout = absl::Milliseconds(500);
  node_.InstallPlugin("if [ \"$CNI_COMMAND\" = ADD ]; then sleep 1000; fi\n");
  Start();
  const auto pod = node_->RunPod(node_.NetworkPod("hanging"));
  EXPECT_EQ(pod.status().code(), absl::StatusCode::kDeadlineExceeded) << pod.status();
  ExpectNothingLeft();
}

TEST_F(ManagerNetworkTest, ADetachmentThatFailsIsToldAndTriedAgain) {
  node_.InstallPlugin(absl::StrCat(kGoodPlugin, "if [ \"$CNI_COMMAND\" = DEL ]; then test ! -e ",
                                   node_.root(), "/broken || exit 1; fi\n"));
  Start();
  const auto pod = node_->RunPod(node_.NetworkPod("stuck"));
  ASSERT_TRUE(pod.ok()) << pod.status();
  { std::ofstream broken(node_.root() + "/broken"); }
  EXPECT_FALSE(node_.StopPod(*pod).ok()) << "the network has not been given back";
  EXPECT_EQ((*node_->FindPod(*pod))->state, PodState::kNotReady);
  EXPECT_FALSE(node_.StopPod(*pod).ok());
  // Removal does not wait for the network; what is owed is remembered.
  EXPECT_TRUE(node_.RemovePod(*pod).ok());
  EXPECT_TRUE(node_->ListPods().empty());
  ASSERT_EQ(unlink((node_.root() + "/broken").c_str()), 0);
  // A restarted daemon tries at once.
  ASSERT_TRUE(node_.Restart().ok());
  ExpectNothingLeft();
}

TEST_F(ManagerNetworkTest, RealPluginsGiveAnAddressThatAnswersAndTakeItBack) {
  std::ofstream conf(node_.options().cni_conf_dir + "/10-bridge.conflist");
  conf << R"({"cniVersion": "1.0.0", "name": "testnet", "plugins": [
    {"type": "bridge", "bridge": "davit-test0", "isGateway": true, "ipMasq": false,
     "ipam": {"type": "host-local", "dataDir": ")"
       << node_.root() << R"(/ipam", "ranges": [[{"subnet": "10.77.0.0/24"}]],
              "routes": [{"dst": "0.0.0.0/0"}]}}]})";
  conf.close();
  Start();
  const auto pod = node_->RunPod(node_.NetworkPod("real"));
  ASSERT_TRUE(pod.ok()) << pod.status();
  const auto view = *node_->FindPod(*pod);
  ASSERT_EQ(view->ips.size(), 1u);
  EXPECT_TRUE(absl::StartsWith(view->ips[0], "10.77.0."));
  const auto id = node_.Run(node_.Container(*pod, "c", {"/bin/sleep", "1000"}));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_TRUE(absl::StrContains(node_.Exec(*id, {"/bin/cat", "/proc/net/dev"})->out, "eth0:"));
  const std::string lease = absl::StrCat(node_.root(), "/ipam/testnet/", view->ips[0]);
  EXPECT_EQ(access(lease.c_str(), F_OK), 0);
  EXPECT_TRUE(node_.StopPod(*pod).ok());
  EXPECT_NE(access(lease.c_str(), F_OK), 0);
  EXPECT_TRUE(node_.RemovePod(*pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerNetworkTest, TheNetworkOfALostPodIsTakenDown) {
  node_.InstallPlugin(kGoodPlugin);
  Start();
  const auto pod = node_->RunPod(node_.NetworkPod("lost"));
  ASSERT_TRUE(pod.ok()) << pod.status();
  ASSERT_EQ(kill((*node_->FindPod(*pod))->pid, SIGKILL), 0);
  EXPECT_TRUE(Node::Await([&] { return absl::StrContains(node_.PluginLog(), "DEL "); }));
  EXPECT_TRUE(Node::Await([&] {
    const auto view = *node_->FindPod(*pod);
    return view->state == PodState::kNotReady && view->reason == "SupervisorLost" &&
           view->ips.empty();
  }));
  EXPECT_TRUE(node_.RemovePod(*pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerNetworkTest, AnAttachmentOfAPodThatIsNoMoreIsTakenBackAtStart) {
  node_.InstallPlugin(kGoodPlugin);
  Start();
  const auto pod = node_->RunPod(node_.NetworkPod("gone"));
  ASSERT_TRUE(pod.ok()) << pod.status();
  const pid_t supervisor = (*node_->FindPod(*pod))->pid;
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", *pod);
  const auto record = ReadPodRecord(directory);
  ASSERT_TRUE(record.ok()) << record.status();
  node_.StopManager();
  // As a reboot leaves it: the processes, their cgroups and the state directory are gone, the lease
  // is not.
  ASSERT_EQ(kill(supervisor, SIGKILL), 0);
  EXPECT_TRUE(Node::Await([&] {
    return record->supervisor_cgroup().empty() || rmdir(record->supervisor_cgroup().c_str()) == 0;
  }));
  ASSERT_TRUE(sys::RemoveTreeAt(AT_FDCWD, directory).ok());
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(node_->ListPods().empty());
  EXPECT_TRUE(Node::Await(
      [&] { return absl::StrContains(node_.PluginLog(), absl::StrCat("DEL ", *pod)); }));
}

}  // namespace
}  // namespace davit::sandbox
