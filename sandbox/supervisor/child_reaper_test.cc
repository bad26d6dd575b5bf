#include "sandbox/supervisor/child_reaper.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>

#include "gtest/gtest.h"
#include "runtime/sys/spawn.h"

namespace davit::sandbox {
namespace {

class ChildReaperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, nullptr);
    loop_ = *EventLoop::Create();
    reaper_ = *ChildReaper::Create(loop_.get());
  }

  template <typename Body>
  static pid_t Fork(Body body) {
    const pid_t pid = fork();
    if (pid == 0) {
      body();
      _exit(0);
    }
    return pid;
  }
  std::optional<int> AwaitStatus(pid_t pid) {
    sys::UniqueFd pidfd = *sys::PidfdOpen(pid);
    std::optional<int> status;
    EXPECT_TRUE(reaper_->Await(pid, pidfd.get(), [&](int s) { status = s; }).ok());
    for (int i = 0; i < 1000 && !status.has_value(); ++i) loop_->RunOnce(absl::Seconds(10));
    return status;
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ChildReaper> reaper_;
};

TEST_F(ChildReaperTest, TellsHowAChildEnded) {
  EXPECT_EQ(AwaitStatus(Fork([] { _exit(7); })), 7 << 8);
  EXPECT_EQ(AwaitStatus(Fork([] { raise(SIGKILL); })), SIGKILL);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
}

TEST_F(ChildReaperTest, ReapsOrphansThatNobodyAsksFor) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t parent = Fork([&] {
    for (int i = 0; i < 20; ++i) {
      if (fork() == 0) {
        close(pipe_fds[1]);
        char byte;
        [[maybe_unused]] const ssize_t n = read(pipe_fds[0], &byte, 1);
        _exit(i);
      }
    }
    _exit(3);
  });
  EXPECT_EQ(AwaitStatus(parent), 3 << 8);
  close(pipe_fds[1]);  // lets the orphans go
  for (int i = 0; i < 1000 && waitid(P_ALL, 0, nullptr, WEXITED | WNOHANG | WNOWAIT) == 0; ++i) {
    loop_->RunOnce(absl::Milliseconds(10));
  }
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  close(pipe_fds[0]);
}

TEST_F(ChildReaperTest, LeavesAloneWhatAnotherReaps) {
  const pid_t left = Fork([] { _exit(9); });
  reaper_->Leave(left);
  EXPECT_EQ(AwaitStatus(Fork([] { _exit(1); })), 1 << 8);
  int status;
  ASSERT_EQ(waitpid(left, &status, 0), left);
  EXPECT_EQ(WEXITSTATUS(status), 9);
  reaper_->LeftIsReaped(left);
}

TEST_F(ChildReaperTest, AForgottenChildIsReapedSilently) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const pid_t pid = Fork([&] {
    close(pipe_fds[1]);
    char byte;
    [[maybe_unused]] const ssize_t n = read(pipe_fds[0], &byte, 1);
  });
  sys::UniqueFd pidfd = *sys::PidfdOpen(pid);
  ASSERT_TRUE(reaper_->Await(pid, pidfd.get(), [](int) { FAIL(); }).ok());
  reaper_->Forget(pid);
  close(pipe_fds[1]);
  for (int i = 0; i < 1000 && kill(pid, 0) == 0; ++i) loop_->RunOnce(absl::Milliseconds(10));
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  close(pipe_fds[0]);
}

TEST_F(ChildReaperTest, KnowsThePidBehindAPidfd) {
  EXPECT_EQ(PidOfPidfd(sys::PidfdOpen(getpid())->get()), getpid());
  EXPECT_EQ(PidOfPidfd(-1), 0);
  EXPECT_EQ(PidOfPidfd(0), 0);
}

}  // namespace
}  // namespace davit::sandbox
