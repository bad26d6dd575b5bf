#include "sandbox/supervisor/supervisor_fixture.h"

namespace davit::sandbox {
namespace {

TEST_F(SupervisorTest, AContainerRunsToItsEndWithItsLogAndItsRecord) {
  StartPod();
  ASSERT_TRUE(hello_.has_hello()) << hello_.error().message();
  EXPECT_EQ(hello_.hello().sandbox_id(), "pod1");
  EXPECT_EQ(hello_.hello().pid(), pid_);
  const Reply created =
      Create("c1", {.args = {"sh", "-c", "echo out; echo err >&2; hostname; exit 7"}});
  ASSERT_FALSE(created.has_error()) << created.error().message();
  const int pid = created.create_container().pid();
  EXPECT_TRUE(Exists(absl::StrCat("/proc/", pid)));
  EXPECT_EQ(Record("c1").phase(), ContainerState::CREATED);
  EXPECT_EQ(Record("c1").pid(), pid);
  EXPECT_TRUE(Log("c1").empty());

  const Reply started = Start("c1");
  ASSERT_FALSE(started.has_error()) << started.error().message();
  const ContainerState state = AwaitExit("c1");
  EXPECT_EQ(state.phase(), ContainerState::EXITED);
  EXPECT_EQ(WEXITSTATUS(state.wait_status()), 7);
  EXPECT_EQ(state.pid(), 0);
  EXPECT_GT(state.created_at(), 0);
  EXPECT_GE(state.started_at(), state.created_at());
  EXPECT_GE(state.finished_at(), state.started_at());
  EXPECT_FALSE(state.oom_killed());
  EXPECT_EQ(Record("c1").SerializeAsString(), state.SerializeAsString());
  const Lines log = Log("c1");
  EXPECT_EQ(std::set<std::string>(log.begin(), log.end()),
            (std::set<std::string>{"stdout F out", "stderr F err", "stdout F test-pod"}));

  ASSERT_FALSE(Remove("c1").has_error());
  EXPECT_TRUE(cgroups_.Children().empty());
  EXPECT_FALSE(Remove("c1").has_error()) << "removing what is gone succeeds";
}

TEST_F(SupervisorTest, SignalsReachTheContainer) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "trap 'exit 42' TERM; echo up; while :; do sleep 0.1; done"}});
  ASSERT_TRUE(Eventually([&] { return Log("c1") == Lines{"stdout F up"}; }));
  ASSERT_FALSE(Kill("c1", SIGTERM).has_error());
  EXPECT_EQ(WEXITSTATUS(AwaitExit("c1").wait_status()), 42);
  EXPECT_FALSE(Kill("c1", SIGTERM).has_error()) << "a signal after the end succeeds";

  Run("c2", {.args = {"sleep", "1000"}});
  ASSERT_FALSE(Kill("c2", SIGKILL).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExit("c2").wait_status()), SIGKILL);
  EXPECT_EQ(static_cast<absl::StatusCode>(Kill("none", SIGTERM).error().code()),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(static_cast<absl::StatusCode>(Kill("c2", 999).error().code()),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SupervisorTest, KillAllEndsEveryProcess) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "sleep 1000 & sleep 1000 & wait"}});
  ASSERT_TRUE(Eventually([&] { return Members("c1").size() == 3; }));
  ASSERT_FALSE(Kill("c1", SIGKILL, true).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExit("c1").wait_status()), SIGKILL);
  EXPECT_TRUE(Members("c1").empty());
}

TEST_F(SupervisorTest, ACommandThatDoesNotExistEndsTheContainerWithAStartError) {
  StartPod();
  ASSERT_FALSE(Create("c1", {.args = {"/no/such/command"}}).has_error());
  const Reply reply = Start("c1");
  ASSERT_TRUE(reply.has_error());
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(reply.error().message(), "/no/such/command"))
      << reply.error().message();
  EXPECT_EQ(reply.error().operation(), "exec");
  EXPECT_EQ(reply.error().error_number(), ENOENT);
  const ContainerState state = AwaitExit("c1");
  EXPECT_EQ(state.start_errno(), ENOENT);
  EXPECT_EQ(WEXITSTATUS(state.wait_status()), 128);
  EXPECT_TRUE(absl::StrContains(state.message(), "/no/such/command"));
  EXPECT_EQ(Record("c1").start_errno(), ENOENT);
  EXPECT_TRUE(Start("c1").has_error());

  ASSERT_FALSE(Create("c2", {.args = {"/etc"}}).has_error());
  EXPECT_EQ(Start("c2").error().error_number(), EACCES);
  EXPECT_EQ(AwaitExit("c2").start_errno(), EACCES);
}

TEST_F(SupervisorTest, AFailedCreationLeavesNothing) {
  StartPod();
  std::ofstream(dir_ + "/file") << "x";
  const Reply reply = Create("c1", {.args = {"true"}, .bind_source = dir_ + "/file/below"});
  ASSERT_TRUE(reply.has_error());
  EXPECT_TRUE(absl::StrContains(reply.error().message(), dir_ + "/file/below"))
      << reply.error().message();
  EXPECT_NE(reply.error().operation(), "");
  EXPECT_NE(reply.error().error_number(), 0);
  EXPECT_TRUE(cgroups_.Children().empty());

  std::ofstream(dir_ + "/log") << "x";
  const Reply no_log = Create("c2", {.args = {"true"}, .log_path = dir_ + "/log/0.log"});
  ASSERT_TRUE(no_log.has_error());
  EXPECT_EQ(no_log.error().error_number(), ENOTDIR);
  EXPECT_TRUE(absl::StrContains(no_log.error().message(), dir_ + "/log/0.log"));
  EXPECT_TRUE(cgroups_.Children().empty());
  // The name is free again. (The upper layer was made for the first attempt: a volatile overlay
  // refuses it a second time.)
  ASSERT_TRUE(sys::RemoveTreeAt(AT_FDCWD, ContainerDir("c2")).ok());
  const Reply again = Create("c2", {.args = {"true"}});
  EXPECT_FALSE(again.has_error()) << again.error().message();
}

TEST_F(SupervisorTest, ACreationThatCannotBeRecordedFailsAndLeavesNothing) {
  StartPod();
  // Too long for a record, which the process is made before.
  const std::string id(2500, 'i');
  const sys::UniqueFd plan = Memfd("plan", ContainerPlan("c1", {.args = {"true"}}));
  ASSERT_TRUE(sys::MakeDirs(ContainerDir("c1"), 0755).ok());
  const Reply reply = Call(
      [&](ToSupervisor* r) {
        r->mutable_create_container()->set_container_id(id);
        r->mutable_create_container()->set_container_dir(ContainerDir("c1"));
      },
      {plan.get()});
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()),
            absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(cgroups_.Children().empty());
}

TEST_F(SupervisorTest, BadRequestsAreRefusedAndHarmless) {
  StartPod();
  ASSERT_FALSE(Create("c1", {.args = {"sleep", "1000"}}).has_error());
  EXPECT_EQ(static_cast<absl::StatusCode>(Create("c1", {.args = {"true"}}).error().code()),
            absl::StatusCode::kAlreadyExists);
  const auto create = [&](const std::string& id, const std::string& dir,
                          const std::vector<int>& fds) {
    return static_cast<absl::StatusCode>(Call(
                                             [&](ToSupervisor* r) {
                                               r->mutable_create_container()->set_container_id(id);
                                               r->mutable_create_container()->set_container_dir(
                                                   dir);
                                             },
                                             fds)
                                             .error()
                                             .code());
  };
  const sys::UniqueFd garbage = Memfd("plan", std::string(4096, 'x'));
  const sys::UniqueFd empty = Memfd("plan", "");
  const std::string dir = ContainerDir("c1");
  EXPECT_EQ(create("", dir, {garbage.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create("c2", "relative", {garbage.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create("c2", dir, {}), absl::StatusCode::kInvalidArgument);
  // Not NotFound: that would speak of the container.
  EXPECT_EQ(create("c2", dir + "x", {garbage.get()}), absl::StatusCode::kInternal);
  ASSERT_TRUE(sys::MakeDirs(ContainerDir("c2"), 0755).ok());
  EXPECT_EQ(create("c2", ContainerDir("c2"), {garbage.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create("c2", ContainerDir("c2"), {empty.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(static_cast<absl::StatusCode>(Start("none").error().code()),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(static_cast<absl::StatusCode>(Exec("c1", "e", {.args = {"true"}}).error().code()),
            absl::StatusCode::kFailedPrecondition)
      << "it is created, not running";
  EXPECT_EQ(static_cast<absl::StatusCode>(Call([](ToSupervisor*) {}).error().code()),
            absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(Start("c1").has_error());
}

TEST_F(SupervisorTest, LogsAreReopenedAfterRotation) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "i=0; while [ ! -e /data/stop ]; do echo $i; i=$((i+1)); done"},
             .bind_source = dir_ + "/share"});
  const auto reopen = [&] {
    return Call([](ToSupervisor* r) { r->mutable_reopen_log()->set_container_id("c1"); });
  };
  std::string text;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Eventually([&] { return !Log("c1").empty(); }));
    ASSERT_EQ(rename(LogPath("c1").c_str(), (LogPath("c1") + ".old").c_str()), 0);
    const Reply reopened = reopen();
    ASSERT_FALSE(reopened.has_error()) << reopened.error().message();
    text += ReadFile(LogPath("c1") + ".old");
  }
  std::ofstream(dir_ + "/share/stop") << "";
  AwaitExit("c1");
  text += ReadFile(LogPath("c1"));
  int next = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    ASSERT_EQ(line.substr(31), absl::StrCat("stdout F ", next));
    ++next;
  }
  EXPECT_GT(next, 5);
  EXPECT_EQ(static_cast<absl::StatusCode>(reopen().error().code()),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SupervisorTest, AnOomKillIsToldAndRecorded) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "x=$(yes | head -c 200000000); echo survived"},
             .memory_limit = 16 << 20});
  const ContainerState state = AwaitExit("c1");
  EXPECT_TRUE(state.oom_killed());
  EXPECT_NE(state.wait_status(), 0);
  EXPECT_TRUE(Record("c1").oom_killed());
  FromSupervisor event;
  EXPECT_TRUE(AwaitEvent([](const FromSupervisor& e) { return e.has_out_of_memory(); }, &event));
  EXPECT_EQ(event.out_of_memory().container_id(), "c1");
}

TEST_F(SupervisorTest, StdinStaysOpenWhenItIsAskedFor) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "cat; echo end"}});  // /dev/null
  EXPECT_EQ(AwaitExit("c1").wait_status(), 0);
  Run("c2", {.args = {"sh", "-c", "echo up; cat; echo end"}, .stdin = true});
  ASSERT_TRUE(Eventually([&] { return Log("c2") == Lines{"stdout F up"}; }));
  ASSERT_FALSE(Kill("c2", SIGKILL).has_error());
  AwaitExit("c2");
  EXPECT_EQ(Log("c2"), Lines{"stdout F up"});
}

}  // namespace
}  // namespace davit::sandbox
