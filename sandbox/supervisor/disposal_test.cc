#include "sandbox/supervisor/disposal.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

class DisposalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigprocmask(SIG_BLOCK, &mask, nullptr);
    loop_ = *EventLoop::Create();
    reaper_ = *ChildReaper::Create(loop_.get());
  }
  void RunUntil(const bool& done) {
    for (int i = 0; i < 1000 && !done; ++i) loop_->RunOnce(absl::Seconds(10));
  }
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ChildReaper> reaper_;
};

TEST_F(DisposalTest, TheDescriptorIsClosedForGoodAndTheChildReaped) {
  int fds[2];
  ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
  bool done = false;
  CloseInChild(loop_.get(), reaper_.get(), sys::UniqueFd(fds[1]), absl::Seconds(10),
               [&] { done = true; });
  EXPECT_FALSE(done);
  RunUntil(done);
  ASSERT_TRUE(done);
  // The last writer is gone: the reader sees the end.
  pollfd poll_fd{fds[0], POLLIN, 0};
  ASSERT_EQ(poll(&poll_fd, 1, 0), 1);
  EXPECT_NE(poll_fd.revents & POLLHUP, 0);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  close(fds[0]);
}

TEST_F(DisposalTest, NoDescriptorIsDoneAtOnceButNotFromWithin) {
  bool done = false;
  CloseInChild(loop_.get(), reaper_.get(), sys::UniqueFd(), absl::Seconds(10),
               [&] { done = true; });
  EXPECT_FALSE(done);
  RunUntil(done);
  EXPECT_TRUE(done);
}

}  // namespace
}  // namespace davit::sandbox
