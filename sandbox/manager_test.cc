#include "sandbox/manager.h"

#include <signal.h>
#include <sys/stat.h>

#include <filesystem>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/socket.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/notification.h"
#include "sandbox/status_record.h"
#include "sandbox/testing_node.h"

namespace davit::sandbox {
namespace {

using testing::Node;
using testing::ReadAll;

class ManagerTest : public testing::ManagerFixture {
 protected:
  ManagerTest() { Start(); }
};

TEST_F(ManagerTest, AHostNetworkPodLivesItsWholeLifeAndLeavesNothing) {
  const std::string pod = MustRun(node_.HostPod("whole"));
  auto view = node_->FindPod(pod);
  ASSERT_TRUE(view.ok());
  EXPECT_EQ((*view)->state, PodState::kReady);
  EXPECT_GT((*view)->created_at, 0);
  EXPECT_GT((*view)->pid, 0);
  EXPECT_TRUE((*view)->netns_path.empty());
  EXPECT_EQ((*view)->metadata->Serialize(), "pod whole");
  EXPECT_EQ(node_->ListPods().size(), 1u);

  auto id = node_->CreateContainer(
      node_.Container(pod, "c", {"/bin/sh", "-c", "echo out; echo err >&2; exec sleep 1000"}));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(View(*id)->state, ContainerState::kCreated);
  EXPECT_GT(View(*id)->pid, 0);
  EXPECT_EQ(node_.images().pins(), 1);
  const absl::Status started = node_->StartContainer(*id);
  ASSERT_TRUE(started.ok()) << started;
  EXPECT_EQ(View(*id)->state, ContainerState::kRunning);
  EXPECT_GE(View(*id)->started_at, View(*id)->created_at);
  EXPECT_EQ(access((View(*id)->bundle_dir + "/config.json").c_str(), F_OK), 0);
  EXPECT_EQ(node_->StartContainer(*id).code(), absl::StatusCode::kFailedPrecondition);

  const auto hello = node_.Exec(*id, {"/bin/sh", "-c", "echo $GREETING"});
  ASSERT_TRUE(hello.ok()) << hello.status();
  EXPECT_EQ(hello->out, "hello\n");
  EXPECT_TRUE(Node::Await([&] {
    const std::string log = ReadAll(View(*id)->log_path);
    return absl::StrContains(log, "stdout F out") && absl::StrContains(log, "stderr F err");
  })) << ReadAll(View(*id)->log_path);

  EXPECT_TRUE(node_.StopContainer(*id, absl::ZeroDuration()).ok());
  EXPECT_EQ(View(*id)->state, ContainerState::kExited);
  EXPECT_EQ(View(*id)->exit_code, 137);
  EXPECT_EQ(View(*id)->reason, "Error");
  EXPECT_GE(View(*id)->finished_at, View(*id)->started_at);
  EXPECT_TRUE(node_.StopContainer(*id, absl::ZeroDuration()).ok()) << "idempotent";
  EXPECT_TRUE(node_.RemoveContainer(*id).ok());
  EXPECT_EQ(node_->FindContainer(*id).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(node_.RemoveContainer(*id).ok()) << "idempotent";

  EXPECT_TRUE(node_.StopPod(pod).ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kNotReady);
  EXPECT_TRUE(node_.StopPod(pod).ok()) << "idempotent";
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  EXPECT_EQ(node_->FindPod(pod).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(node_.RemovePod(pod).ok()) << "idempotent";
  ExpectNothingLeft();
}

TEST_F(ManagerTest, UnknownIdsAreNotFoundForUseAndFineForStopAndRemove) {
  const std::string id(64, 'f');
  EXPECT_TRUE(node_.StopPod(id).ok());
  EXPECT_TRUE(node_.RemovePod(id).ok());
  EXPECT_TRUE(node_.StopContainer(id, absl::ZeroDuration()).ok());
  EXPECT_TRUE(node_.RemoveContainer(id).ok());
  EXPECT_EQ(node_->StartContainer(id).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(node_->ReopenLog(id).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(node_.Exec(id, {"true"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(node_->CreateContainer(node_.Container(id, "c", {"/bin/true"})).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(ManagerTest, ExitsAreToldWithCodeAndReason) {
  const std::string pod = MustRun(node_.HostPod("exits"));
  const auto run = [&](const std::string& name, const std::string& script) {
    return node_.AwaitExit(MustRun(node_.Container(pod, name, {"/bin/sh", "-c", script})));
  };
  EXPECT_EQ(run("ok", "exit 0")->reason, "Completed");
  const auto three = run("three", "exit 3");
  EXPECT_EQ(three->exit_code, 3);
  EXPECT_EQ(three->reason, "Error");
  EXPECT_EQ(three->pid, 0);
  // A container's init is immune to its own signals; its child is not, and the shell tells.
  EXPECT_EQ(run("term", "sh -c 'kill -TERM $$'; exit $?")->exit_code, 143);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, ACommandThatCannotBeExecutedIsAStartErrorThatNamesIt) {
  const std::string pod = MustRun(node_.HostPod("starterror"));
  auto id = node_->CreateContainer(node_.Container(pod, "none", {"/bin/no-such-command"}));
  ASSERT_TRUE(id.ok()) << id.status();
  const absl::Status started = node_->StartContainer(*id);
  EXPECT_FALSE(started.ok());
  EXPECT_TRUE(absl::StrContains(started.message(), "/bin/no-such-command")) << started;
  const auto view = View(*id);
  EXPECT_EQ(view->state, ContainerState::kExited);
  EXPECT_EQ(view->reason, "StartError");
  EXPECT_EQ(view->exit_code, 128);
  EXPECT_TRUE(absl::StrContains(view->message, "/bin/no-such-command")) << view->message;
  EXPECT_GT(view->finished_at, 0);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, ANameIsTakenAsLongAsItsPodOrContainerLives) {
  const std::string pod = MustRun(node_.HostPod("dup"));
  const auto second = node_->RunPod(node_.HostPod("dup"));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(absl::StrContains(second.status().message(), pod)) << second.status();
  ASSERT_TRUE(node_->CreateContainer(node_.Container(pod, "c", {"/bin/true"})).ok());
  EXPECT_EQ(node_->CreateContainer(node_.Container(pod, "c", {"/bin/true"})).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  const std::string again = MustRun(node_.HostPod("dup"));
  EXPECT_TRUE(node_.RemovePod(again).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, APodThatIsNotValidIsRefusedAndLeavesNothing) {
  PodSpec spec = node_.HostPod("bad");
  spec.name_key.clear();
  EXPECT_EQ(node_->RunPod(spec).status().code(), absl::StatusCode::kInvalidArgument);
  spec = node_.HostPod("bad");
  spec.sysctls = {{"vm.swappiness", "1"}};
  EXPECT_EQ(node_->RunPod(spec).status().code(), absl::StatusCode::kInvalidArgument);
  spec = node_.HostPod("bad");
  spec.cgroup_parent = "/a/../b";
  EXPECT_EQ(node_->RunPod(spec).status().code(), absl::StatusCode::kInvalidArgument);
  spec = node_.HostPod("bad");
  spec.hostname = "two\nlines";
  EXPECT_EQ(node_->RunPod(spec).status().code(), absl::StatusCode::kInvalidArgument);
  spec = node_.HostPod("bad");
  spec.dns.emplace();
  spec.dns->servers = {"1.1.1.1 2.2.2.2"};
  EXPECT_EQ(node_->RunPod(spec).status().code(), absl::StatusCode::kInvalidArgument);
  // Accepted by the checks, refused by the kernel when the supervisor writes it.
  spec = node_.HostPod("bad");
  spec.sysctls = {{"kernel.shmmax", "not a number"}};
  EXPECT_FALSE(node_->RunPod(spec).ok());
  EXPECT_TRUE(node_->ListPods().empty());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, AFailedCreationLeavesNothing) {
  const std::string pod = MustRun(node_.HostPod("failing"));
  before_ = node_.Census();
  ContainerSpec spec = node_.Container(pod, "c", {"/bin/true"});
  spec.image_id = "absent";
  EXPECT_EQ(node_->CreateContainer(spec).status().code(), absl::StatusCode::kNotFound);
  spec = node_.Container(pod, "c", {"/bin/true"});
  spec.spec.mounts.push_back({"/x", "bind", "/tmp", {"rbind"}});
  spec.spec.mounts.push_back({"/y", "nosuchfs", "none", {}});
  EXPECT_FALSE(node_->CreateContainer(spec).ok());
  spec = node_.Container(pod, "c", {"/bin/true"});
  spec.spec.process->user.uid = 0;
  spec.spec.process->rlimits = {{"RLIMIT_NOFILE", 2000, 1000}};  // soft above hard
  EXPECT_FALSE(node_->CreateContainer(spec).ok());
  spec = node_.Container(pod, "c", {"/bin/true"});
  spec.spec.process.reset();
  EXPECT_EQ(node_->CreateContainer(spec).status().code(), absl::StatusCode::kInvalidArgument);
  spec = node_.Container(pod, "c", {"/bin/true"});
  spec.pid = NamespaceMode::kTarget;
  spec.pid_target = "nobody";
  EXPECT_EQ(node_->CreateContainer(spec).status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(node_->ListContainers().empty());
  ExpectNothingLeft();
  // The name is free again.
  EXPECT_TRUE(node_->CreateContainer(node_.Container(pod, "c", {"/bin/true"})).ok());
}

TEST_F(ManagerTest, AMissingHostPathIsMadeOrRefusedAsConfigured) {
  const std::string pod = MustRun(node_.HostPod("paths"));
  const std::string missing = node_.root() + "/made/here";
  ContainerSpec spec = node_.Container(pod, "c", {"/bin/true"});
  spec.spec.mounts.push_back({"/data", "bind", missing, {"rbind"}});
  auto id = node_->CreateContainer(spec);
  ASSERT_TRUE(id.ok()) << id.status();
  struct stat info;
  ASSERT_EQ(stat(missing.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0755u);
  EXPECT_TRUE(node_.RemovePod(pod).ok());

  node_.options().refuse_missing_host_paths = true;
  ASSERT_TRUE(node_.Restart().ok());
  const std::string strict = MustRun(node_.HostPod("strict"));
  spec = node_.Container(strict, "c", {"/bin/true"});
  spec.spec.mounts.push_back({"/data", "bind", missing + "/deeper", {"rbind"}});
  const auto refused = node_->CreateContainer(spec);
  EXPECT_FALSE(refused.ok());
  EXPECT_TRUE(absl::StrContains(refused.status().message(), missing)) << refused.status();
}

TEST_F(ManagerTest, StopSendsTheStopSignalFirstAndKillsWhenTheTimeIsOver) {
  const std::string pod = MustRun(node_.HostPod("stop"));
  const std::string polite = MustRun(node_.Container(
      pod, "polite",
      {"/bin/sh", "-c", "trap 'exit 7' TERM; touch /tmp/ready; while :; do sleep 0.01; done"}));
  ASSERT_TRUE(Node::Await(
      [&] { return access((View(polite)->upper_dir + "/tmp/ready").c_str(), F_OK) == 0; }));
  EXPECT_TRUE(node_.StopContainer(polite, absl::Seconds(60)).ok());
  EXPECT_EQ(View(polite)->exit_code, 7);

  const std::string stubborn = MustRun(node_.Container(
      pod, "stubborn", {"/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"}));
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(node_.StopContainer(stubborn, absl::Milliseconds(200)).ok());
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(199));
  EXPECT_EQ(View(stubborn)->exit_code, 137);
}

TEST_F(ManagerTest, AStopWithAShorterTimeWins) {
  const std::string pod = MustRun(node_.HostPod("shorter"));
  const std::string id = MustRun(
      node_.Container(pod, "c", {"/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"}));
  Notification long_done;
  node_->StopContainer(id, absl::Seconds(1000), [&](absl::Status status) {
    EXPECT_TRUE(status.ok()) << status;
    long_done.Notify();
  });
  EXPECT_FALSE(long_done.HasBeenNotified());
  EXPECT_TRUE(node_.StopContainer(id, absl::Milliseconds(50)).ok());
  long_done.WaitForNotification();
  EXPECT_EQ(View(id)->exit_code, 137);
}

TEST_F(ManagerTest, AContainerThatWasNeverStartedCanBeStoppedAndRemoved) {
  const std::string pod = MustRun(node_.HostPod("created"));
  auto id = node_->CreateContainer(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_TRUE(node_.StopContainer(*id, absl::Seconds(60)).ok());
  EXPECT_EQ(View(*id)->state, ContainerState::kExited);
  EXPECT_EQ(View(*id)->exit_code, 137);
  EXPECT_EQ(View(*id)->reason, "Error") << "nothing failed to start";
  EXPECT_EQ(node_->StartContainer(*id).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(node_.RemoveContainer(*id).ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, RemovingAPodTakesItsRunningContainersAlong) {
  const std::string pod = MustRun(node_.HostPod("force"));
  for (int i = 0; i < 3; ++i) {
    MustRun(node_.Container(pod, absl::StrCat("c", i), {"/bin/sleep", "1000"}));
  }
  EXPECT_EQ(node_->ListContainers().size(), 3u);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  EXPECT_TRUE(node_->ListContainers().empty());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, AStoppedPodTakesNoNewContainers) {
  const std::string pod = MustRun(node_.HostPod("stopped"));
  const std::string running = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  EXPECT_TRUE(node_.StopPod(pod).ok());
  EXPECT_EQ(View(running)->state, ContainerState::kExited);
  EXPECT_EQ(View(running)->exit_code, 137);
  EXPECT_EQ(node_->CreateContainer(node_.Container(pod, "d", {"/bin/true"})).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

// Holds its creation up at the point where the bundle is written.
class SlowMetadata : public Metadata {
 public:
  std::string Serialize() const override {
    go_on.WaitForNotification();
    return "slow";
  }
  mutable Notification go_on;
};

TEST_F(ManagerTest, AnExitThatIsToldBeforeTheCreationReturnsIsNotLost) {
  const std::string pod = MustRun(node_.HostPod("early"));
  const std::string other = MustRun(node_.Container(pod, "other", {"/bin/sleep", "1000"}));
  ContainerSpec spec = node_.Container(pod, "c", {"/bin/sleep", "1000"});
  const auto metadata = std::make_shared<SlowMetadata>();
  spec.metadata = metadata;
  absl::StatusOr<std::string> id;
  std::thread creator([&] { id = node_->CreateContainer(spec); });
  // Found by its status record, since it is not listed yet.
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", pod, "/containers/");
  std::string record;
  const auto phase = [&] {
    const auto status = ReadStatus(record);
    return status.ok() ? status->phase() : supervisor::v1::ContainerState::CREATING;
  };
  EXPECT_TRUE(Node::Await([&] {
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (entry.path().filename() != other) record = entry.path().string() + "/status";
    }
    return phase() == supervisor::v1::ContainerState::CREATED;
  }));
  kill(ReadStatus(record)->pid(), SIGKILL);
  EXPECT_TRUE(Node::Await([&] { return phase() == supervisor::v1::ContainerState::EXITED; }));
  EXPECT_TRUE(node_.Exec(other, {"/bin/true"}).ok()) << "answered behind the exit";
  metadata->go_on.Notify();
  creator.join();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(View(*id)->state, ContainerState::kExited);
  EXPECT_EQ(View(*id)->exit_code, 137);
  EXPECT_TRUE(node_.StopContainer(*id, absl::Seconds(10)).ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, ContainersOfAPodThatSharesItsPidNamespaceSeeEachOther) {
  PodSpec shared = node_.HostPod("sharedpid");
  shared.pid = NamespaceMode::kPod;
  const std::string pod = MustRun(shared);
  ContainerSpec first = node_.Container(pod, "a", {"/bin/sleep", "1111"});
  ContainerSpec second = node_.Container(pod, "b", {"/bin/sleep", "2222"});
  first.pid = second.pid = NamespaceMode::kPod;
  const std::string a = MustRun(first), b = MustRun(second);
  const auto ps = node_.Exec(b, {"/bin/ps"});
  ASSERT_TRUE(ps.ok()) << ps.status();
  EXPECT_TRUE(absl::StrContains(ps->out, "1111")) << ps->out;
  EXPECT_TRUE(absl::StrContains(ps->out, "2222")) << ps->out;
  EXPECT_TRUE(node_.StopContainer(a, absl::ZeroDuration()).ok());
  EXPECT_EQ(View(b)->state, ContainerState::kRunning);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, NewLimitsReachTheCgroupTheBundleAndTheMetadata) {
  const std::string pod = MustRun(node_.HostPod("update"));
  ContainerSpec spec = node_.Container(pod, "c", {"/bin/sleep", "1000"});
  spec.spec.linux_.resources->memory.emplace();
  spec.spec.linux_.resources->memory->limit = 64 << 20;
  const std::string id = MustRun(spec);
  runtime::spec::LinuxResources update;
  update.memory.emplace();
  update.memory->limit = 128 << 20;
  update.cpu.emplace();
  update.cpu->shares = 300;
  const absl::Status updated =
      node_->UpdateResources(id, update, std::make_shared<testing::TextMetadata>("new"));
  ASSERT_TRUE(updated.ok()) << updated;
  const auto in_container = node_.Exec(
      id, {"/bin/sh", "-c",
           "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.shares "
           "2>/dev/null || cat /sys/fs/cgroup/memory.max"});
  ASSERT_TRUE(in_container.ok());
  EXPECT_TRUE(absl::StrContains(in_container->out, "134217728")) << in_container->out;
  EXPECT_TRUE(absl::StrContains(ReadAll(View(id)->bundle_dir + "/config.json"), "134217728"));
  EXPECT_EQ(View(id)->metadata->Serialize(), "new");

  update.memory->limit = 96 << 20;
  update.cpu->cpus = "4000-4001";  // no such processors: nothing of it may happen
  EXPECT_FALSE(node_->UpdateResources(id, update, nullptr).ok());
  EXPECT_TRUE(absl::StrContains(ReadAll(View(id)->bundle_dir + "/config.json"), "134217728"));
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ(View(id)->metadata->Serialize(), "new");
}

TEST_F(ManagerTest, ALogIsReopenedUnderItsName) {
  const std::string pod = MustRun(node_.HostPod("reopen"));
  const std::string id = MustRun(
      node_.Container(pod, "c", {"/bin/sh", "-c", "while :; do echo line; sleep 0.02; done"}));
  const std::string path = View(id)->log_path;
  ASSERT_TRUE(Node::Await([&] { return !ReadAll(path).empty(); }));
  ASSERT_EQ(rename(path.c_str(), (path + ".1").c_str()), 0);
  EXPECT_TRUE(node_->ReopenLog(id).ok());
  EXPECT_EQ(access(path.c_str(), F_OK), 0);
  EXPECT_TRUE(Node::Await([&] { return !ReadAll(path).empty(); }));
}

TEST_F(ManagerTest, AContainerThatTheOomKillerEndsSaysSo) {
  const std::string pod = MustRun(node_.HostPod("oom"));
  ContainerSpec spec = node_.Container(pod, "c", {"/bin/busybox", "tail", "/dev/zero"});
  spec.spec.linux_.resources->memory.emplace();
  spec.spec.linux_.resources->memory->limit = 16 << 20;
  const auto view = node_.AwaitExit(MustRun(spec));
  EXPECT_EQ(view->exit_code, 137);
  EXPECT_EQ(view->reason, "OOMKilled");
}

TEST_F(ManagerTest, ACgroupThatTheKubeletMadeIsUsedAndLeftToIt) {
  PodSpec spec = node_.HostPod("kubelet");
  spec.cgroup_parent = node_.options().cgroup_parent + "/kubepods/pod1";
  const std::string pod = MustRun(spec);
  EXPECT_EQ((*node_->FindPod(pod))->cgroup_path, spec.cgroup_parent);
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  EXPECT_EQ(View(id)->cgroup_path, absl::StrCat(spec.cgroup_parent, "/", id));
  EXPECT_TRUE(absl::StrContains(ReadAll(absl::StrCat("/proc/", View(id)->pid, "/cgroup")),
                                View(id)->cgroup_path));
  // The supervisor is nobody that the kubelet may kill or freeze with the pod.
  EXPECT_FALSE(absl::StrContains(
      ReadAll(absl::StrCat("/proc/", (*node_->FindPod(pod))->pid, "/cgroup")), spec.cgroup_parent));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  const auto census = node_.Census();
  EXPECT_GT(census.at("cgroups"), 0) << "the kubelet's groups stay";
  EXPECT_EQ(census.count("processes"), before_.count("processes"));
}

TEST_F(ManagerTest, AHungSupervisorDoesNotKeepItsContainersFromEnding) {
  node_.options().supervisor_patience = absl::Milliseconds(300);
  ASSERT_TRUE(node_.Restart().ok());
  before_ = node_.Census();
  const std::string pod = MustRun(node_.HostPod("hung"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  ASSERT_EQ(kill((*node_->FindPod(pod))->pid, SIGSTOP), 0);
  EXPECT_TRUE(node_.StopContainer(id, absl::ZeroDuration()).ok());
  EXPECT_EQ(View(id)->exit_code, 137);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, AConnectionThatSomebodyTakesOverIsTakenBack) {
  const std::string pod = MustRun(node_.HostPod("takeover"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  const auto other =
      sys::SeqpacketConnect(absl::StrCat(node_.options().state, "/pods/", pod, "/supervisor.sock"));
  ASSERT_TRUE(other.ok()) << other.status();
  ASSERT_TRUE(Node::Await([&] { return !node_.Exec(id, {"/bin/true"}).ok(); }));
  EXPECT_TRUE(Node::Await([&] { return node_.Exec(id, {"/bin/true"}).ok(); }));
  EXPECT_EQ(View(id)->state, ContainerState::kRunning);
}

TEST_F(ManagerTest, ASupervisorThatCannotServeFailsThePodAndLeavesNothing) {
  node_.options().supervisor = "/bin/busybox";  // not a supervisor: ends at once
  ASSERT_TRUE(node_.Restart().ok());
  before_ = node_.Census();
  EXPECT_FALSE(node_->RunPod(node_.HostPod("broken")).ok());
  EXPECT_TRUE(node_->ListPods().empty());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, APodWhoseGroupCannotBeMadeLeavesNothing) {
  node_.options().cgroup_parent = "/" + std::string(300, 'x');  // longer than a name may be
  ASSERT_TRUE(node_.Restart().ok());
  before_ = node_.Census();
  EXPECT_FALSE(node_->RunPod(node_.HostPod("nogroup")).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerTest, ASecondManagerOnTheSameDirectoriesIsRefusedWithThePidOfTheFirst) {
  const auto second = Manager::Open(node_.options(), {}, &node_.images());
  EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(second.status().message(), absl::StrCat("pid ", getpid())));
}

TEST_F(ManagerTest, ManyPodsAtOnceComeAndGoWithoutALeak) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([this, i] {
      auto pod = node_->RunPod(node_.HostPod(absl::StrCat("many", i)));
      ASSERT_TRUE(pod.ok()) << pod.status();
      auto id = node_.Run(node_.Container(*pod, absl::StrCat("c", i), {"/bin/sleep", "1000"}));
      EXPECT_TRUE(id.ok()) << id.status();
      EXPECT_TRUE(node_.Exec(*id, {"/bin/true"}).ok());
      EXPECT_TRUE(node_.StopPod(*pod).ok());
      EXPECT_TRUE(node_.RemovePod(*pod).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectNothingLeft();
}

}  // namespace
}  // namespace davit::sandbox
