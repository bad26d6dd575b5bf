#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "runtime/sys/features.h"
#include "runtime/sys/file.h"
#include "sandbox/manager.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/notification.h"
#include "sandbox/testing_node.h"

// Supervisors that are killed, or stopped, while something is done with their pods.
namespace davit::sandbox {
namespace {

using testing::Node;

constexpr absl::Duration kPatience = absl::Milliseconds(500);
// Far below what the default patience would take, far above what a busy machine adds.
constexpr absl::Duration kSoon = absl::Seconds(8);

// A call that ends some time.
struct Pending {
  Notification done;
  absl::Status status;
  DoneCallback Callback(const std::shared_ptr<Pending>& self) {
    return [self](absl::Status result) {
      self->status = std::move(result);
      self->done.Notify();
    };
  }
};

class ManagerLossTest : public testing::ManagerFixture {
 protected:
  void StartWith(absl::Duration patience) {
    node_.options().supervisor_patience = patience;
    Start();
  }
  std::string Pod(const std::string& name) { return MustRun(node_.HostPod(name)); }
  std::string Run(const std::string& pod, const std::string& name, const std::string& script) {
    return MustRun(node_.Container(pod, name, {"/bin/sh", "-c", script}));
  }
  pid_t SupervisorOf(const std::string& pod) { return (*node_->FindPod(pod))->pid; }
  void SignalSupervisor(const std::string& pod, int signal) {
    ASSERT_EQ(kill(SupervisorOf(pod), signal), 0);
  }
  std::shared_ptr<Pending> BeginStopPod(const std::string& pod) {
    auto pending = std::make_shared<Pending>();
    node_->StopPod(pod, pending->Callback(pending));
    return pending;
  }
  void ExpectLost(const std::string& pod, const std::string& container) {
    EXPECT_EQ(View(container)->state, ContainerState::kExited);
    EXPECT_EQ(View(container)->exit_code, 137);
    EXPECT_EQ(View(container)->reason, "SupervisorLost");
    EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kNotReady);
  }
  void ExpectRemovable(const std::string& pod) {
    const absl::Status removed = node_.RemovePod(pod);
    EXPECT_TRUE(removed.ok()) << removed;
    ExpectNothingLeft();
  }
};

TEST_F(ManagerLossTest, ASupervisorThatDiesDuringAStopDoesNotDelayIt) {
  StartWith(absl::Minutes(10));  // nobody but the loss itself ends the wait
  const std::string pod = Pod("dying");
  const std::string container = Run(pod, "c", "sleep 1000");
  SignalSupervisor(pod, SIGSTOP);  // so that the stop waits for it
  const auto stop = BeginStopPod(pod);
  EXPECT_FALSE(stop->done.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  SignalSupervisor(pod, SIGKILL);
  ASSERT_TRUE(stop->done.WaitForNotificationWithTimeout(kSoon));
  EXPECT_TRUE(stop->status.ok()) << stop->status;
  ExpectLost(pod, container);
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, ASupervisorThatDiesDuringARemovalDoesNotDelayIt) {
  StartWith(absl::Minutes(10));
  const std::string pod = Pod("dying");
  const std::string container = Run(pod, "c", "exit 3");
  node_.AwaitExit(container);
  SignalSupervisor(pod, SIGSTOP);
  auto remove = std::make_shared<Pending>();
  node_->RemoveContainer(container, remove->Callback(remove));
  EXPECT_FALSE(remove->done.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  SignalSupervisor(pod, SIGKILL);
  ASSERT_TRUE(remove->done.WaitForNotificationWithTimeout(kSoon));
  EXPECT_TRUE(remove->status.ok()) << remove->status;
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, ASupervisorThatDiesDuringAStartFailsItAndTheContainerIsLost) {
  StartWith(absl::Minutes(10));
  const std::string pod = Pod("dying");
  const auto container = node_->CreateContainer(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  ASSERT_TRUE(container.ok()) << container.status();
  SignalSupervisor(pod, SIGSTOP);
  const pid_t supervisor = SupervisorOf(pod);
  std::thread killer([&] {
    absl::SleepFor(absl::Milliseconds(50));
    kill(supervisor, SIGKILL);
  });
  EXPECT_EQ(node_->StartContainer(*container).code(), absl::StatusCode::kUnavailable);
  killer.join();
  EXPECT_EQ(node_.AwaitExit(*container)->reason, "SupervisorLost");
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, TheTrueExitCodeIsKnownWhereTheKernelTellsIt) {
  StartWith(absl::Minutes(10));
  const std::string pod = Pod("true");
  const std::string shared = node_.root() + "/shared";
  ASSERT_TRUE(sys::MakeDirs(shared, 0755).ok());
  ContainerSpec spec = node_.Container(
      pod, "c", {"/bin/sh", "-c", "while test ! -e /shared/end; do sleep 0.01; done; exit 7"});
  spec.spec.mounts.push_back({"/shared", "bind", shared, {"rbind", "ro"}});
  const std::string container = MustRun(std::move(spec));
  const pid_t pid = View(container)->pid;
  SignalSupervisor(pod, SIGSTOP);
  // It ends, and nobody reaps it before its supervisor is dead.
  { std::ofstream end(shared + "/end"); }
  ASSERT_TRUE(Node::Await([&] {
    return absl::StrContains(testing::ReadAll(absl::StrCat("/proc/", pid, "/stat")), ") Z ");
  }));
  SignalSupervisor(pod, SIGKILL);
  const auto view = node_.AwaitExit(container);
  EXPECT_EQ(view->reason, "SupervisorLost");
  EXPECT_EQ(view->exit_code, sys::ProbeKernel().pidfd_exit_info ? 7 : 137);
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, AStoppedSupervisorIsKilledWhenAStopWaitsForIt) {
  StartWith(kPatience);
  const std::string pod = Pod("stopped");
  const std::string container = Run(pod, "c", "sleep 1000");
  const std::string other = Pod("other");
  const std::string other_container = Run(other, "o", "sleep 1000");
  SignalSupervisor(pod, SIGSTOP);
  const auto stop = BeginStopPod(pod);
  // Nobody else waits.
  EXPECT_TRUE(node_.Exec(other_container, {"/bin/true"}).ok());
  EXPECT_TRUE(node_.RemovePod(other).ok());
  EXPECT_FALSE(stop->done.HasBeenNotified());
  ASSERT_TRUE(stop->done.WaitForNotificationWithTimeout(kSoon));
  EXPECT_TRUE(stop->status.ok()) << stop->status;
  ExpectLost(pod, container);
  EXPECT_TRUE(absl::StrContains(absl::StrJoin(node_.reports(), "\n"), "does not answer"));
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, AStoppedSupervisorIsKilledWhenARemovalOfItsPodWaitsForIt) {
  StartWith(kPatience);
  const std::string pod = Pod("stopped");
  Run(pod, "c", "sleep 1000");
  SignalSupervisor(pod, SIGSTOP);
  const absl::Time begun = absl::Now();
  ExpectRemovable(pod);
  EXPECT_LT(absl::Now() - begun, kSoon);
}

TEST_F(ManagerLossTest, AStoppedSupervisorIsKilledWhenTheRemovalOfAStoppedPodWaitsForIt) {
  StartWith(kPatience);
  const std::string pod = Pod("stopped");
  ASSERT_TRUE(node_.StopPod(pod).ok());
  SignalSupervisor(pod, SIGSTOP);
  const absl::Time begun = absl::Now();
  ExpectRemovable(pod);
  EXPECT_LT(absl::Now() - begun, kSoon);
}

TEST_F(ManagerLossTest, AStoppedSupervisorIsKilledWhenTheStopOfAContainerWaitsForIt) {
  StartWith(kPatience);
  const std::string pod = Pod("stopped");
  const std::string container = Run(pod, "c", "sleep 1000");
  SignalSupervisor(pod, SIGSTOP);
  const absl::Time begun = absl::Now();
  const absl::Status stopped = node_.StopContainer(container, absl::Milliseconds(100));
  EXPECT_TRUE(stopped.ok()) << stopped;
  EXPECT_LT(absl::Now() - begun, kSoon);
  EXPECT_EQ(View(container)->exit_code, 137);
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, AStoppedSupervisorIsKilledWhenTheRemovalOfAContainerWaitsForIt) {
  StartWith(kPatience);
  const std::string pod = Pod("stopped");
  const std::string container = Run(pod, "c", "exit 0");
  node_.AwaitExit(container);
  SignalSupervisor(pod, SIGSTOP);
  const absl::Time begun = absl::Now();
  const absl::Status removed = node_.RemoveContainer(container);
  EXPECT_TRUE(removed.ok()) << removed;
  EXPECT_LT(absl::Now() - begun, kSoon);
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, AStopBehindAStartThatHangsIsNotKeptByIt) {
  StartWith(kPatience);
  const std::string pod = Pod("stopped");
  const auto container = node_->CreateContainer(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  ASSERT_TRUE(container.ok()) << container.status();
  SignalSupervisor(pod, SIGSTOP);
  const absl::Time begun = absl::Now();
  std::thread starter([&] { EXPECT_FALSE(node_->StartContainer(*container).ok()); });
  absl::SleepFor(absl::Milliseconds(50));
  const absl::Status stopped = node_.StopContainer(*container, absl::ZeroDuration());
  EXPECT_TRUE(stopped.ok()) << stopped;
  starter.join();
  EXPECT_LT(absl::Now() - begun, kSoon);
  ExpectRemovable(pod);
}

TEST_F(ManagerLossTest, AStoppedSupervisorThatARestartedDaemonFoundIsKilledWhenAStopWaitsForIt) {
  StartWith(kPatience);
  const std::string pod = Pod("stopped");
  const std::string container = Run(pod, "c", "sleep 1000");
  SignalSupervisor(pod, SIGSTOP);
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ(View(container)->state, ContainerState::kRunning);
  const auto stop = BeginStopPod(pod);
  ASSERT_TRUE(stop->done.WaitForNotificationWithTimeout(kSoon));
  EXPECT_TRUE(stop->status.ok()) << stop->status;
  ExpectLost(pod, container);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

TEST_F(ManagerLossTest, ASupervisorThatOnlyPausedIsNotKilled) {
  StartWith(absl::Seconds(5));
  const std::string pod = Pod("paused");
  const std::string container = Run(pod, "c", "sleep 1000");
  SignalSupervisor(pod, SIGSTOP);
  const auto stop = BeginStopPod(pod);
  EXPECT_FALSE(stop->done.WaitForNotificationWithTimeout(absl::Milliseconds(50)));
  SignalSupervisor(pod, SIGCONT);
  ASSERT_TRUE(stop->done.WaitForNotificationWithTimeout(kSoon));
  EXPECT_TRUE(stop->status.ok()) << stop->status;
  EXPECT_EQ(View(container)->reason, "Error") << "its own end, told by its supervisor";
  ExpectRemovable(pod);
}

}  // namespace
}  // namespace davit::sandbox
