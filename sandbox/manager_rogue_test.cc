#include <signal.h>

#include <string>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "sandbox/manager.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/testing_node.h"

// Supervisors that do not keep to the protocol (testing/rogue_supervisor.cc): the daemon goes on,
// everybody else notices nothing, and the pod can be stopped and removed.
namespace davit::sandbox {
namespace {

using testing::Node;

class ManagerRogueTest : public testing::ManagerFixture,
                         public ::testing::WithParamInterface<const char*> {
 protected:
  ManagerRogueTest() {
    node_.options().supervisor = "sandbox/testing/rogue-supervisor";
    node_.options().supervisor_patience = absl::Milliseconds(300);
    Start();
  }
  absl::StatusOr<std::string> Create(const std::string& pod, const std::string& mode) {
    return node_->CreateContainer(node_.Container(pod, mode, {"/bin/true"}));
  }
  // The daemon, and a pod that has nothing to do with it, go on.
  void ExpectOthersWork() {
    const std::string other = MustRun(node_.HostPod("other"));
    EXPECT_TRUE(Create(other, "good").ok());
    EXPECT_TRUE(node_.RemovePod(other).ok());
  }
};

class BrokenReplyTest : public ManagerRogueTest {};

TEST_P(BrokenReplyTest, FailsTheCallAndTheSupervisorIsReachedAgain) {
  const std::string pod = MustRun(node_.HostPod("rogue"));
  const auto created = Create(pod, GetParam());
  EXPECT_FALSE(created.ok());
  ExpectOthersWork();
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kReady);
  EXPECT_TRUE(Node::Await([&] { return Create(pod, "good").ok(); }))
      << "a new connection begins anew";
  EXPECT_TRUE(node_.StopPod(pod).ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(Modes, BrokenReplyTest,
                         ::testing::Values("garbage", "truncated", "oversize", "empty", "kind",
                                           "sequence", "descriptors", "utf8", "code"),
                         [](const auto& info) { return std::string(info.param); });

class OddSupervisorTest : public ManagerRogueTest {};

TEST_P(OddSupervisorTest, DisturbsNobodyAndItsPodEnds) {
  const std::string pod = MustRun(node_.HostPod("rogue"));
  const auto created = Create(pod, GetParam());
  ASSERT_TRUE(created.ok()) << created.status();
  ExpectOthersWork();
  const absl::Time begun = absl::Now();
  const absl::Status stopped = node_.StopPod(pod);
  EXPECT_TRUE(stopped.ok()) << stopped;
  EXPECT_LT(absl::Now() - begun, absl::Seconds(5));
  EXPECT_EQ(View(*created)->state, ContainerState::kExited);
  EXPECT_EQ(View(*created)->exit_code, 137);
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kNotReady);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

INSTANTIATE_TEST_SUITE_P(Modes, OddSupervisorTest,
                         ::testing::Values("good", "pid", "flood", "mute", "state"),
                         [](const auto& info) { return std::string(info.param); });

TEST_F(ManagerRogueTest, AProcessThatASupervisorOnlyClaimsToBeItsContainerIsNotTouched) {
  const std::string pod = MustRun(node_.HostPod("liar"));
  // It names the process that runs this test.
  const auto created = Create(pod, "pid");
  ASSERT_TRUE(created.ok()) << created.status();
  ASSERT_EQ(kill((*node_->FindPod(pod))->pid, SIGKILL), 0);
  EXPECT_EQ(node_.AwaitExit(*created)->reason, "SupervisorLost");
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

}  // namespace
}  // namespace davit::sandbox
