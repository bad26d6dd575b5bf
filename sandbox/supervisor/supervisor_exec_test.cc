#include "sandbox/supervisor/supervisor_fixture.h"

namespace davit::sandbox {
namespace {

TEST_F(SupervisorTest, AnExecRunsInTheContainerWithTheCallersStdio) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Streams streams;
  const Reply reply =
      Exec("c1", "e1", {.args = {"sh", "-c", "hostname; echo e >&2; exit 5"}}, &streams);
  ASSERT_FALSE(reply.has_error()) << reply.error().message();
  EXPECT_EQ(ReadAll(streams.out), "test-pod\n");
  EXPECT_EQ(ReadAll(streams.err), "e\n");
  const auto exited = AwaitExecExit("e1");
  EXPECT_EQ(WEXITSTATUS(exited.wait_status()), 5);
  EXPECT_FALSE(exited.timed_out());
  EXPECT_EQ(Output("c1", {"readlink", "/proc/self/ns/pid"}),
            Output("c1", {"readlink", "/proc/1/ns/pid"}));
  EXPECT_TRUE(absl::StrContains(Output("c1", {"ps"}), "sleep 1000"));
  // Without any stdio it reads and writes /dev/null.
  ASSERT_FALSE(Exec("c1", "e2", {.args = {"sh", "-c", "cat; echo x"}}).has_error());
  EXPECT_EQ(AwaitExecExit("e2").wait_status(), 0);
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));
}

TEST_F(SupervisorTest, AnExecOfAMissingCommandNamesIt) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  const Reply reply = Exec("c1", "e1", {.args = {"nothing-here"}});
  ASSERT_TRUE(reply.has_error());
  EXPECT_TRUE(absl::StrContains(reply.error().message(), "nothing-here"))
      << reply.error().message();
  EXPECT_EQ(reply.error().error_number(), ENOENT);
  EXPECT_EQ(reply.error().operation(), "exec");
  EXPECT_EQ(Output("c1", {"echo", "fine"}), "fine\n");
}

TEST_F(SupervisorTest, ATimeoutKillsEveryProcessOfTheExec) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Streams streams;
  // One that left the session, one that ignores signals, and both hold the pipe.
  ASSERT_FALSE(
      Exec("c1", "e1",
           {.args = {"sh", "-c", "trap '' TERM HUP; (busybox setsid sleep 1000 &) ; sleep 1000"},
            .timeout_ms = 300},
           &streams)
          .has_error());
  const auto exited = AwaitExecExit("e1");
  EXPECT_TRUE(exited.timed_out());
  EXPECT_EQ(WTERMSIG(exited.wait_status()), SIGKILL);
  EXPECT_EQ(ReadAll(streams.out), "");  // ends: nobody holds it any more
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));
  EXPECT_EQ(Output("c1", {"echo", "alive"}), "alive\n");
}

TEST_F(SupervisorTest, AnExecEndsAlthoughADescendantHoldsItsPipe) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Streams streams;
  ASSERT_FALSE(
      Exec("c1", "e1", {.args = {"sh", "-c", "sleep 1000 & echo started"}}, &streams).has_error());
  const auto exited = AwaitExecExit("e1");
  EXPECT_EQ(exited.wait_status(), 0);
  EXPECT_FALSE(exited.timed_out());
  // It goes on running, as it does in peers, and goes with the container.
  EXPECT_EQ(Members("c1").size(), 2u);
  ASSERT_FALSE(Remove("c1").has_error());
  EXPECT_TRUE(cgroups_.Children().empty());
}

TEST_F(SupervisorTest, CancelAndALostConnectionKillExecs) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  ASSERT_FALSE(Exec("c1", "e1", {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}}).has_error());
  ASSERT_FALSE(
      Call([](ToSupervisor* r) { r->mutable_cancel_exec()->set_exec_id("e1"); }).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExecExit("e1").wait_status()), SIGKILL);
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));

  ASSERT_FALSE(Exec("c1", "e2", {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}}).has_error());
  ASSERT_TRUE(Eventually([&] { return Members("c1").size() == 3; }));
  socket_.reset();
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));
  Reconnect();
  EXPECT_EQ(hello_.hello().containers(0).phase(), ContainerState::RUNNING);
}

TEST_F(SupervisorTest, ATerminalIsLoggedAndAnExecGetsItsMaster) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "tty; echo line; sleep 1000"}, .tty = true});
  ASSERT_TRUE(Eventually([&] { return Log("c1").size() == 2; }));
  EXPECT_EQ(Log("c1")[1], "stdout F line");
  const Reply reply =
      Exec("c1", "e1", {.args = {"sh", "-c", "tty && stty size && exit 9"}, .tty = true});
  ASSERT_FALSE(reply.has_error()) << reply.error().message();
  ASSERT_EQ(reply_fds_.size(), 1u);
  std::string text;
  char buffer[512];
  for (ssize_t n; (n = read(reply_fds_[0].get(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  EXPECT_TRUE(absl::StrContains(text, "/dev/pts/")) << text;
  EXPECT_EQ(WEXITSTATUS(AwaitExecExit("e1").wait_status()), 9);
}

}  // namespace
}  // namespace davit::sandbox
