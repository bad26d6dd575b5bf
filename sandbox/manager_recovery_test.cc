#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "proto/state.pb.h"
#include "runtime/sys/file.h"
#include "sandbox/manager.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/records.h"
#include "sandbox/testing_node.h"

// What a restarted daemon finds, and what becomes of pods whose supervisor is lost.
namespace davit::sandbox {
namespace {

using testing::Node;
using testing::ReadAll;

// A zombie counts as gone: it waits for whoever is its parent now.
bool IsGone(pid_t pid) {
  const std::string status = ReadAll(absl::StrCat("/proc/", pid, "/status"));
  return status.empty() || absl::StrContains(status, "State:\tZ");
}

class ManagerRecoveryTest : public testing::ManagerFixture {
 protected:
  ManagerRecoveryTest() { Start(); }
  std::string Pod(const std::string& name) { return MustRun(node_.HostPod(name)); }
  std::string Run(const std::string& pod, const std::string& name, const std::string& script) {
    return MustRun(node_.Container(pod, name, {"/bin/sh", "-c", script}));
  }
  std::string Reports() const { return absl::StrJoin(node_.reports(), "\n"); }
};

TEST_F(ManagerRecoveryTest, ARestartedManagerFindsEverythingWithItsTrueState) {
  const std::string pod = Pod("restart");
  const std::string running = Run(pod, "running", "while :; do echo tick; sleep 0.01; done");
  const std::string exited = Run(pod, "exited", "exit 4");
  const std::string shared = node_.root() + "/shared";
  ASSERT_TRUE(sys::MakeDirs(shared, 0755).ok());
  ContainerSpec spec = node_.Container(
      pod, "ending", {"/bin/sh", "-c", "while test ! -e /shared/end; do sleep 0.01; done; exit 9"});
  spec.spec.mounts.push_back({"/shared", "bind", shared, {"rbind", "ro"}});
  const std::string ending = node_.Run(spec).value_or("");
  auto created = node_->CreateContainer(node_.Container(pod, "created", {"/bin/sleep", "1000"}));
  ASSERT_TRUE(created.ok()) << created.status();
  node_.AwaitExit(exited);
  const std::string stopped = Pod("stopped");
  ASSERT_TRUE(node_.StopPod(stopped).ok());
  const ContainerView old = *View(running);
  const PodView old_pod = **node_->FindPod(pod);
  node_.StopManager();
  { std::ofstream end(shared + "/end"); }
  const std::string log_before = ReadAll(old.log_path);
  ASSERT_TRUE(Node::Await([&] { return ReadAll(old.log_path).size() > log_before.size(); }))
      << "logs go on without the daemon";
  ASSERT_TRUE(node_.Restart().ok());

  EXPECT_EQ(node_->ListPods().size(), 2u);
  EXPECT_EQ(node_->ListContainers().size(), 4u);
  EXPECT_TRUE(node_.images().collecting());
  const PodView found = **node_->FindPod(pod);
  EXPECT_EQ(found.state, PodState::kReady);
  EXPECT_EQ(found.created_at, old_pod.created_at);
  EXPECT_EQ(found.pid, old_pod.pid);
  EXPECT_EQ(found.spec.name_key, old_pod.spec.name_key);
  EXPECT_EQ(found.metadata->Serialize(), "pod restart");
  EXPECT_EQ((*node_->FindPod(stopped))->state, PodState::kNotReady);
  EXPECT_EQ(View(running)->state, ContainerState::kRunning);
  EXPECT_EQ(View(running)->pid, old.pid);
  EXPECT_EQ(View(running)->started_at, old.started_at);
  EXPECT_EQ(View(running)->created_at, old.created_at);
  EXPECT_EQ(View(running)->metadata->Serialize(), "container running");
  EXPECT_EQ(View(exited)->exit_code, 4);
  EXPECT_EQ(node_.AwaitExit(ending)->exit_code, 9);
  EXPECT_GE(View(ending)->finished_at, View(ending)->started_at);
  EXPECT_EQ(View(*created)->state, ContainerState::kCreated);
  EXPECT_EQ(node_.images().pins(), 4);

  // All of them can be worked with.
  EXPECT_EQ(node_.Exec(running, {"/bin/sh", "-c", "echo $GREETING"})->out, "hello\n");
  EXPECT_TRUE(node_->StartContainer(*created).ok());
  EXPECT_EQ(node_->RunPod(node_.HostPod("restart")).status().code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(node_.StopContainer(running, absl::ZeroDuration()).ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  EXPECT_TRUE(node_.RemovePod(stopped).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerRecoveryTest, ALostSupervisorEndsThePodAndNothingStays) {
  const std::string pod = Pod("lost");
  const std::string running = Run(pod, "running", "sleep 1000");
  const std::string exited = Run(pod, "exited", "exit 4");
  node_.AwaitExit(exited);
  const pid_t container_pid = View(running)->pid;
  ASSERT_EQ(kill((*node_->FindPod(pod))->pid, SIGKILL), 0);
  const auto view = node_.AwaitExit(running);
  EXPECT_EQ(view->exit_code, 137);
  EXPECT_EQ(view->reason, "SupervisorLost");
  EXPECT_EQ(View(exited)->exit_code, 4) << "what was known stays known";
  EXPECT_EQ(View(exited)->reason, "Error");
  EXPECT_TRUE(Node::Await([&] {
    return (*node_->FindPod(pod))->state == PodState::kNotReady &&
           (*node_->FindPod(pod))->reason == "SupervisorLost";
  }));
  EXPECT_TRUE(IsGone(container_pid));
  // The same after a restart.
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ(View(running)->reason, "SupervisorLost");
  EXPECT_EQ(View(running)->finished_at, view->finished_at);
  EXPECT_EQ((*node_->FindPod(pod))->reason, "SupervisorLost");
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerRecoveryTest, ASupervisorLostWhileTheDaemonIsDownIsNoticedAtStart) {
  const std::string pod = Pod("lostdown");
  const std::string running = Run(pod, "running", "sleep 1000");
  const std::string exited = Run(pod, "exited", "exit 4");
  node_.AwaitExit(exited);
  const pid_t supervisor = (*node_->FindPod(pod))->pid;
  const pid_t container_pid = View(running)->pid;
  node_.StopManager();
  ASSERT_EQ(kill(supervisor, SIGKILL), 0);
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kNotReady);
  EXPECT_EQ((*node_->FindPod(pod))->reason, "SupervisorLost");
  EXPECT_EQ(View(running)->state, ContainerState::kExited);
  EXPECT_EQ(View(running)->exit_code, 137);
  EXPECT_EQ(View(running)->reason, "SupervisorLost");
  EXPECT_EQ(View(exited)->exit_code, 4);
  EXPECT_TRUE(IsGone(container_pid));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

TEST_F(ManagerRecoveryTest, AfterARebootEverythingIsListedAsEndedAndCanBeRemoved) {
  const std::string pod = Pod("reboot");
  const std::string running = Run(pod, "running", "sleep 1000");
  const pid_t supervisor = (*node_->FindPod(pod))->pid;
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", pod);
  node_.StopManager();
  ASSERT_EQ(kill(supervisor, SIGKILL), 0);
  auto record = ReadPodRecord(directory);
  ASSERT_TRUE(record.ok());
  record->set_boot_id("another-boot");
  ASSERT_TRUE(WritePodRecord(directory, *record).ok());
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kNotReady);
  EXPECT_EQ(View(running)->state, ContainerState::kExited);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

TEST_F(ManagerRecoveryTest, ASupervisorThatDoesNotAnswerKeepsItsLastKnownStateUntilItDoes) {
  const std::string pod = Pod("hung");
  const std::string running = Run(pod, "running", "sleep 1000");
  const pid_t supervisor = (*node_->FindPod(pod))->pid;
  node_.StopManager();
  ASSERT_EQ(kill(supervisor, SIGSTOP), 0);
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kReady);
  EXPECT_EQ(View(running)->state, ContainerState::kRunning);
  EXPECT_EQ(View(running)->reason, "");
  ASSERT_EQ(kill(supervisor, SIGCONT), 0);
  EXPECT_TRUE(Node::Await([&] { return node_.Exec(running, {"/bin/true"}).ok(); }));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

TEST_F(ManagerRecoveryTest, LeftoversOfACutShortCreationAreClearedAway) {
  const std::string pod = Pod("leftover");
  const std::string container = std::string(64, 'c');
  const std::string half_pod = std::string(64, 'd');
  node_.StopManager();
  const std::string pods = node_.options().state + "/pods";
  ASSERT_TRUE(sys::MakeDirs(absl::StrCat(pods, "/", half_pod, "/containers"), 0700).ok());
  ASSERT_TRUE(sys::MakeDirs(absl::StrCat(pods, "/", pod, "/containers/", container), 0700).ok());
  ASSERT_TRUE(
      sys::MakeDirs(absl::StrCat(node_.options().root, "/containers/", container, "/upper"), 0700)
          .ok());
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ(node_->ListPods().size(), 1u);
  EXPECT_TRUE(node_->ListContainers().empty());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerRecoveryTest, APodWithoutARecordIsEndedWithItsSupervisor) {
  const std::string pod = Pod("norecord");
  Run(pod, "c", "sleep 1000");
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", pod);
  node_.StopManager();
  ASSERT_EQ(unlink((directory + "/record").c_str()), 0);
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(node_->ListPods().empty());
  ExpectNothingLeft();
}

TEST_F(ManagerRecoveryTest, APodWithoutARecordIsEndedAlsoInAGroupOfTheKubelets) {
  PodSpec spec = node_.HostPod("norecordkube");
  spec.cgroup_parent = node_.options().cgroup_parent + "/kubepods/pod1";
  const std::string pod = node_->RunPod(spec).value_or("");
  const pid_t container_pid = View(Run(pod, "c", "sleep 1000"))->pid;
  ASSERT_GT(container_pid, 0);
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", pod);
  node_.StopManager();
  ASSERT_EQ(unlink((directory + "/record").c_str()), 0);
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(node_->ListPods().empty());
  EXPECT_TRUE(IsGone(container_pid));
}

TEST_F(ManagerRecoveryTest, ForeignAndDamagedDirectoriesAreSetAsideAndReported) {
  const std::string pod = Pod("damaged");
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", pod);
  const std::string pods = node_.options().state + "/pods";
  node_.StopManager();
  {
    std::ofstream record(directory + "/record");
    record << "garbage";
  }
  ASSERT_TRUE(sys::MakeDirs(pods + "/my notes", 0700).ok());
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(node_->ListPods().empty());
  EXPECT_EQ(access((pods + "/set-aside/my notes.0").c_str(), F_OK), 0);
  EXPECT_EQ(access(absl::StrCat(pods, "/set-aside/", pod, ".0/record").c_str(), F_OK), 0);
  EXPECT_TRUE(absl::StrContains(Reports(), "my notes"));
  EXPECT_TRUE(absl::StrContains(Reports(), pod));
  EXPECT_EQ(node_.Census()["processes"], before_["processes"]) << "what ran in it was ended";
  EXPECT_EQ(node_.Census()["cgroups"], before_["cgroups"]);
  ASSERT_TRUE(node_.Restart().ok()) << "and the next start has nothing to say of it";
}

TEST_F(ManagerRecoveryTest, WhatAContainerWroteIsKeptWhenItsRecordIsDamaged) {
  const std::string pod = Pod("damaged");
  const std::string damaged = Run(pod, "damaged", "echo precious > /work; sleep 1000");
  const std::string other = Run(pod, "other", "sleep 1000");
  ASSERT_TRUE(
      Node::Await([&] { return ReadAll(View(damaged)->upper_dir + "/work") == "precious\n"; }));
  const std::string bundle = View(damaged)->bundle_dir;
  node_.StopManager();
  { std::ofstream(bundle + "/record") << "garbage"; }
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_FALSE(node_->FindContainer(damaged).ok());
  const std::string aside =
      absl::StrCat(node_.options().root, "/containers/set-aside/", damaged, ".0");
  EXPECT_EQ(ReadAll(aside + "/upper/work"), "precious\n");
  EXPECT_TRUE(absl::StrContains(Reports(), aside));
  EXPECT_EQ(node_.Exec(other, {"/bin/echo", "works"})->out, "works\n");
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ(ReadAll(aside + "/upper/work"), "precious\n");
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

TEST_F(ManagerRecoveryTest, WhoeverServesASupervisorsSocketInItsPlaceIsNotTakenForIt) {
  const std::string pod = Pod("replaced");
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", pod);
  const pid_t supervisor = (*node_->FindPod(pod))->pid;
  node_.StopManager();
  ASSERT_EQ(unlink((directory + "/supervisor.sock").c_str()), 0);
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  const pid_t stranger = fork();
  if (stranger == 0) {
    const int listener = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    strncpy(address.sun_path, (directory + "/supervisor.sock").c_str(),
            sizeof address.sun_path - 1);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
        listen(listener, 5) != 0) {
      _exit(1);
    }
    close(fds[1]);
    for (;;) pause();
  }
  close(fds[1]);
  char nothing;
  ASSERT_EQ(read(fds[0], &nothing, 1), 0);
  close(fds[0]);
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kNotReady);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  EXPECT_FALSE(IsGone(stranger));
  EXPECT_TRUE(Node::Await([&] { return IsGone(supervisor); }));
  kill(stranger, SIGKILL);
  waitpid(stranger, nullptr, 0);
}

TEST_F(ManagerRecoveryTest, APodStoppedWithoutRoomForItsRecordStaysStopped) {
  const std::string pod = Pod("stopped");
  const std::string directory = absl::StrCat(node_.options().state, "/pods/", pod);
  ASSERT_TRUE(node_.StopPod(pod).ok());
  auto record = ReadPodRecord(directory);
  ASSERT_TRUE(record.ok());
  record->set_ready(true);
  node_.StopManager();
  ASSERT_TRUE(WritePodRecord(directory, *record).ok());
  ASSERT_TRUE(MarkPodStopped(directory).ok());
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kNotReady);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerRecoveryTest, ShutdownEndsCallsThatWait) {
  const std::string pod = Pod("shutdown");
  const std::string id = Run(pod, "c", "trap '' TERM; while :; do sleep 0.1; done");
  absl::Status stop_status = absl::UnknownError("not called");
  node_->StopContainer(id, absl::Seconds(1000),
                       [&](absl::Status status) { stop_status = std::move(status); });
  absl::Status exec_status = absl::UnknownError("not called");
  ExecSpec exec;
  exec.container_id = id;
  exec.command = {"/bin/sleep", "1000"};
  node_->ExecSync(exec, [&](absl::StatusOr<ExecResult> result) { exec_status = result.status(); });
  node_.StopManager();
  EXPECT_EQ(stop_status.code(), absl::StatusCode::kUnavailable) << stop_status;
  EXPECT_EQ(exec_status.code(), absl::StatusCode::kUnavailable) << exec_status;
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ(View(id)->state, ContainerState::kRunning);
}

}  // namespace
}  // namespace davit::sandbox
