#include <signal.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/state.pb.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "sandbox/manager.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/notification.h"
#include "sandbox/records.h"
#include "sandbox/testing_node.h"

// What a connection that breaks, or is made late, leaves of the work that was under way on it.
namespace davit::sandbox {
namespace {

using testing::Node;

class ManagerReconnectTest : public testing::ManagerFixture {
 protected:
  ManagerReconnectTest() { Start(); }
  std::string DirectoryOf(const std::string& pod) {
    return absl::StrCat(node_.options().state, "/pods/", pod);
  }
  // A supervisor serves one connection, and whoever comes last has it.
  void BreakConnection(const std::string& pod) {
    const auto socket = sys::SeqpacketConnect(DirectoryOf(pod) + "/supervisor.sock");
    EXPECT_TRUE(socket.ok()) << socket.status();
  }
  bool Works(const std::string& container) {
    return Node::Await([&] { return node_.Exec(container, {"/bin/true"}).ok(); });
  }
};

TEST_F(ManagerReconnectTest, ACreateWhoseConnectionBreaksLeavesNothingAndNotItsName) {
  const std::string pod = MustRun(node_.HostPod("broken"));
  const std::string other = MustRun(node_.Container(pod, "other", {"/bin/sleep", "1000"}));
  const auto before = node_.Census();
  for (int round = 0; round < 12; ++round) {
    absl::StatusOr<std::string> created;
    std::thread creator([&] {
      created = node_->CreateContainer(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
    });
    usleep(static_cast<useconds_t>(round) * 400);
    BreakConnection(pod);
    creator.join();
    ASSERT_TRUE(Works(other));
    if (created.ok()) {
      EXPECT_TRUE(node_.RemoveContainer(*created).ok());
    } else {
      EXPECT_TRUE(absl::IsUnavailable(created.status())) << created.status();
    }
    EXPECT_TRUE(Node::Await([&] { return node_.More(before).empty(); }))
        << ::testing::PrintToString(node_.More(before));
  }
  const std::string again = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  EXPECT_TRUE(Works(again));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerReconnectTest, AContainerCutShortInAPodThatIsReachedLateIsClearedAwayThen) {
  const std::string pod = MustRun(node_.HostPod("late"));
  const std::string container = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  const pid_t supervisor = (*node_->FindPod(pod))->pid;
  // Written down by a daemon that was killed before its supervisor had been asked.
  const std::string unfinished(64, 'e');
  const std::string containers = DirectoryOf(pod) + "/containers/";
  node_.StopManager();
  auto record = ReadContainerRecord(containers + container);
  ASSERT_TRUE(record.ok()) << record.status();
  record->set_id(unfinished);
  record->set_name_key("unfinished");
  ASSERT_TRUE(sys::MakeDirs(containers + unfinished, 0700).ok());
  ASSERT_TRUE(WriteContainerRecord(containers + unfinished, *record).ok());
  ASSERT_EQ(kill(supervisor, SIGSTOP), 0);
  ASSERT_TRUE(node_.Restart().ok());
  ASSERT_EQ(View(unfinished)->state, ContainerState::kUnknown);
  Notification stopped;
  node_->StopContainer(unfinished, absl::Seconds(1000), [&](const absl::Status& status) {
    EXPECT_TRUE(status.ok()) << status;
    stopped.Notify();
  });
  ASSERT_EQ(kill(supervisor, SIGCONT), 0);
  EXPECT_TRUE(stopped.WaitForNotificationWithTimeout(absl::Seconds(20)));
  EXPECT_TRUE(Node::Await([&] { return !node_->FindContainer(unfinished).ok(); }));
  EXPECT_TRUE(Works(container));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerReconnectTest, APodWithMoreContainersThanFitInAPacketIsFoundWhole) {
  constexpr int kContainers = 220;
  const std::string pod = MustRun(node_.HostPod("crowd"));
  for (int i = 0; i < kContainers; ++i) {
    // Each with a long sentence of why it could not be started.
    const auto id = node_->CreateContainer(
        node_.Container(pod, absl::StrCat("c", i), {"/" + std::string(250, 'x')}));
    ASSERT_TRUE(id.ok()) << id.status();
    EXPECT_FALSE(node_->StartContainer(*id).ok());
  }
  const std::string running = MustRun(node_.Container(pod, "running", {"/bin/sleep", "1000"}));
  ASSERT_TRUE(node_.Restart().ok());
  int failed = 0;
  for (const auto& container : node_->ListContainers()) {
    failed += container->state == ContainerState::kExited && container->exit_code == 128;
  }
  EXPECT_EQ(failed, kContainers);
  EXPECT_TRUE(Works(running));
  EXPECT_TRUE(node_.StopContainer(running, absl::ZeroDuration()).ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

}  // namespace
}  // namespace davit::sandbox
