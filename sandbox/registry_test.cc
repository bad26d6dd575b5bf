#include "sandbox/registry.h"

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

TEST(NameTableTest, ANameIsTakenExactlyAsLongAsItsReservationLives) {
  NameTable names;
  {
    auto first = names.Reserve("a_ns_uid_0", "id1");
    ASSERT_TRUE(first.ok());
    const auto second = names.Reserve("a_ns_uid_0", "id2");
    EXPECT_EQ(second.status(),
              absl::AlreadyExistsError("name \"a_ns_uid_0\" is reserved for \"id1\""));
    EXPECT_TRUE(names.Reserve("a_ns_uid_1", "id2").ok());
    NameTable::Reservation moved = *std::move(first);
    EXPECT_FALSE(names.Reserve("a_ns_uid_0", "id2").ok()) << "a moved reservation still holds";
  }
  EXPECT_TRUE(names.Reserve("a_ns_uid_0", "id2").ok());
}

class RegistryTest : public ::testing::Test {
 protected:
  RegistryTest() {
    Pod::Fixed pod;
    pod.id = std::string(64, 'a');
    pod_ = std::make_shared<Pod>(std::move(pod), NameTable::Reservation(), PodPhase::kCreating,
                                 PodView());
    Container::Fixed container;
    container.id = std::string(64, 'c');
    container.pod = pod_;
    ContainerView view;
    view.state = ContainerState::kCreated;
    container_ = std::make_shared<Container>(std::move(container), Container::Holds(),
                                             ContainerPhase::kCreated, view);
  }
  PodPtr pod_;
  ContainerPtr container_;
};

TEST_F(RegistryTest, AChangeMakesANewViewAndLeavesTheOldOne) {
  const Container::View before = container_->view();
  ASSERT_TRUE(
      container_
          ->Change(ContainerPhase::kRunning, [](ContainerView* view) { view->started_at = 7; })
          .ok());
  EXPECT_EQ(before->state, ContainerState::kCreated);
  EXPECT_EQ(container_->view()->state, ContainerState::kRunning);
  EXPECT_EQ(container_->view()->started_at, 7);
}

TEST_F(RegistryTest, AnIllegalChangeIsRefusedAndChangesNothing) {
  const absl::Status status =
      container_->Change(ContainerPhase::kGone, [](ContainerView* view) { view->exit_code = 9; });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(container_->phase(), ContainerPhase::kCreated);
  EXPECT_EQ(container_->view()->exit_code, 0);
}

TEST_F(RegistryTest, ExitWaitersAreCalledOnceAndLateOnesAtOnce) {
  int calls = 0;
  container_->WhenExited([&](absl::Status) { ++calls; });
  ASSERT_TRUE(container_->Change(ContainerPhase::kRunning, [](ContainerView*) {}).ok());
  EXPECT_EQ(calls, 0);
  ASSERT_TRUE(container_->Change(ContainerPhase::kExited, [](ContainerView*) {}).ok());
  EXPECT_EQ(calls, 1);
  container_->WhenExited([&](absl::Status) { ++calls; });
  EXPECT_EQ(calls, 2);
}

TEST_F(RegistryTest, WhoWaitsForAnExitIsToldWhenTheDaemonEndsFirst) {
  absl::Status got;
  container_->WhenExited([&](absl::Status status) { got = status; });
  container_->Abandon(absl::UnavailableError("ending"));
  EXPECT_EQ(got, absl::UnavailableError("ending"));
  got = absl::OkStatus();
  container_->WhenExited([&](absl::Status status) { got = status; });
  EXPECT_EQ(got, absl::UnavailableError("ending"));
}

TEST_F(RegistryTest, APodIsReadyUntilItsStopIsDone) {
  auto nothing = [](PodView*) {};
  ASSERT_TRUE(pod_->Change(PodPhase::kReady, nothing).ok());
  EXPECT_EQ(pod_->view()->state, PodState::kReady);
  ASSERT_TRUE(pod_->Change(PodPhase::kStopping, nothing).ok());
  EXPECT_EQ(pod_->view()->state, PodState::kReady);
  ASSERT_TRUE(pod_->Change(PodPhase::kNotReady, nothing).ok());
  EXPECT_EQ(pod_->view()->state, PodState::kNotReady);
}

TEST_F(RegistryTest, OnlyOneGetsToHandleTheLossOfASupervisor) {
  EXPECT_TRUE(pod_->ClaimLoss());
  EXPECT_FALSE(pod_->ClaimLoss());
}

TEST_F(RegistryTest, ObjectsAreFoundByPrefixAndGoneAfterRemoval) {
  Registry registry;
  registry.Add(pod_);
  registry.Add(container_);
  EXPECT_EQ(*registry.FindPod("aaa"), pod_);
  EXPECT_EQ(*registry.FindContainer("c"), container_);
  EXPECT_EQ(registry.FindPod("c").status().code(), absl::StatusCode::kNotFound);
  registry.Remove(*container_);
  EXPECT_TRUE(registry.Containers().empty());
  registry.Clear();
  EXPECT_TRUE(registry.Pods().empty());
}

}  // namespace
}  // namespace davit::sandbox
