
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "sandbox/manager.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/notification.h"
#include "sandbox/testing_node.h"

// Commands in running containers.
namespace davit::sandbox {
namespace {

using testing::Node;

class ManagerExecTest : public testing::ManagerFixture {
 protected:
  ManagerExecTest() { Start(); }
};

TEST_F(ManagerExecTest, ACommandThatPrintsWithoutEndHoldsUpNothingElse) {
  const std::string pod = MustRun(node_.HostPod("endless"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  Notification ended;
  ExecSpec endless;
  endless.container_id = id;
  endless.command = {"/bin/sh", "-c", "cat /dev/zero & cat /dev/zero & cat /dev/zero"};
  endless.timeout = absl::Seconds(5);
  node_->ExecSync(endless, [&](absl::StatusOr<ExecResult>) { ended.Notify(); });
  int others = 0;
  while (!ended.HasBeenNotified()) others += node_.Exec(id, {"/bin/true"}).ok() ? 1 : 0;
  EXPECT_GT(others, 3) << "in the five seconds of the endless one";
}

TEST_F(ManagerExecTest, ExecReturnsOutputAndExitCodeApart) {
  const std::string pod = MustRun(node_.HostPod("exec"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  const auto result = node_.Exec(id, {"/bin/sh", "-c", "echo out; echo err >&2; exit 5"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "out\n");
  EXPECT_EQ(result->err, "err\n");
  EXPECT_EQ(result->exit_code, 5);
  EXPECT_EQ(node_.Exec(id, {"/bin/sh", "-c", "kill -9 $$"})->exit_code, 137);
  const auto missing = node_.Exec(id, {"/bin/none"});
  EXPECT_FALSE(missing.ok());
  EXPECT_TRUE(absl::StrContains(missing.status().message(), "/bin/none")) << missing.status();
  EXPECT_EQ(node_.Exec(id, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ManagerExecTest, ExecKeepsNoMoreOutputThanItsLimitAndLosesNoneBelow) {
  const std::string pod = MustRun(node_.HostPod("execlimit"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  const auto all = node_.Exec(id, {"/bin/seq", "1", "100000"});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->out.size(), 588895u);
  EXPECT_TRUE(absl::EndsWith(all->out, "\n100000\n"));
  const auto cut = node_.Exec(id, {"/bin/seq", "1", "100000"}, absl::InfiniteDuration(), 1000);
  ASSERT_TRUE(cut.ok());
  EXPECT_EQ(cut->out.size(), 1000u);
  EXPECT_EQ(cut->exit_code, 0);
}

TEST_F(ManagerExecTest, AnExecThatTakesTooLongIsKilledWithAllItsProcesses) {
  const std::string pod = MustRun(node_.HostPod("exectimeout"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  const auto late =
      node_.Exec(id, {"/bin/sh", "-c", "sleep 4321 & sleep 4321"}, absl::Milliseconds(200));
  EXPECT_EQ(late.status().code(), absl::StatusCode::kDeadlineExceeded) << late.status();
  EXPECT_TRUE(Node::Await([&] {
    const auto ps = node_.Exec(id, {"/bin/ps"});
    return ps.ok() && !absl::StrContains(ps->out, "4321");
  }));
}

TEST_F(ManagerExecTest, ADescendantThatHoldsThePipeDoesNotHoldTheExec) {
  const std::string pod = MustRun(node_.HostPod("execpipe"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  const absl::Time begin = absl::Now();
  const auto result = node_.Exec(id, {"/bin/sh", "-c", "sleep 30 & echo done"});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "done\n");
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
}

TEST_F(ManagerExecTest, AnExecWithATerminalGetsOne) {
  const std::string pod = MustRun(node_.HostPod("exectty"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  ExecSpec spec;
  spec.container_id = id;
  spec.command = {"/bin/sh", "-c", "test -t 1 && echo tty"};
  spec.tty = true;
  Notification done;
  node_->ExecSync(spec, [&](absl::StatusOr<ExecResult> result) {
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result.value_or(ExecResult()).out, "tty\r\n");
    done.Notify();
  });
  done.WaitForNotification();
}

TEST_F(ManagerExecTest, AnExecEndsWithAnErrorWhenItsContainerIsRemoved) {
  const std::string pod = MustRun(node_.HostPod("execremoved"));
  const std::string id = MustRun(node_.Container(pod, "c", {"/bin/sleep", "1000"}));
  Notification done;
  ExecSpec spec;
  spec.container_id = id;
  spec.command = {"/bin/sh", "-c", "touch /tmp/here; sleep 1000"};
  node_->ExecSync(spec, [&](absl::StatusOr<ExecResult>) { done.Notify(); });
  ASSERT_TRUE(
      Node::Await([&] { return access((View(id)->upper_dir + "/tmp/here").c_str(), F_OK) == 0; }));
  EXPECT_TRUE(node_.RemoveContainer(id).ok());
  done.WaitForNotification();
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

}  // namespace
}  // namespace davit::sandbox
