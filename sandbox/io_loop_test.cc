#include "sandbox/io_loop.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <string>

#include "gtest/gtest.h"
#include "sandbox/notification.h"

namespace davit::sandbox {
namespace {

class IoLoopTest : public ::testing::Test {
 protected:
  IoLoopTest() { loop_ = *IoLoop::Start(); }

  // Waits until everything that was posted before has run.
  void Drain() {
    Notification done;
    loop_->Post([&] { done.Notify(); });
    done.WaitForNotification();
  }

  std::unique_ptr<IoLoop> loop_;
};

TEST_F(IoLoopTest, ClosuresRunInTheOrderOfPostingOnTheLoopsThread) {
  std::string order;
  bool on_loop = false;
  for (char c = 'a'; c <= 'j'; ++c) {
    loop_->Post([&, c] {
      order += c;
      on_loop = loop_->OnLoop();
    });
  }
  Drain();
  EXPECT_EQ(order, "abcdefghij");
  EXPECT_TRUE(on_loop);
  EXPECT_FALSE(loop_->OnLoop());
}

TEST_F(IoLoopTest, AClosureThatPostsRunsLater) {
  Notification inner;
  loop_->Post([&] { loop_->Post([&] { inner.Notify(); }); });
  EXPECT_TRUE(inner.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST_F(IoLoopTest, TimersFireInTheOrderOfTheirTimesAndNotEarly) {
  std::string order;
  Notification done;
  const absl::Time begin = absl::Now();
  loop_->After(absl::Milliseconds(30), [&] {
    order += 'c';
    done.Notify();
  });
  loop_->After(absl::Milliseconds(1), [&] { order += 'a'; });
  loop_->After(absl::Milliseconds(10), [&] { order += 'b'; });
  done.WaitForNotification();
  EXPECT_EQ(order, "abc");
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(29));
}

TEST_F(IoLoopTest, ACancelledTimerNeverFires) {
  bool fired = false;
  Notification later;
  const IoLoop::Handle handle = loop_->After(absl::Milliseconds(5), [&] { fired = true; });
  loop_->Cancel(handle);
  loop_->After(absl::Milliseconds(20), [&] { later.Notify(); });
  later.WaitForNotification();
  Drain();
  EXPECT_FALSE(fired);
  loop_->Cancel(handle);  // twice is harmless
}

TEST_F(IoLoopTest, AnInfiniteTimerNeverFires) {
  loop_->After(absl::InfiniteDuration(), [] { FAIL(); });
  Drain();
}

TEST_F(IoLoopTest, AWatchedDescriptorIsServedUntilItIsUnwatched) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
  sys::UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  std::string got;
  Notification done;
  IoLoop::Handle handle = 0;
  Notification ready;
  auto watch = loop_->Watch(reader.get(), EPOLLIN, [&](uint32_t events) {
    ready.WaitForNotification();
    char c;
    ASSERT_EQ(read(reader.get(), &c, 1), 1);
    got += c;
    if (c == 'z') {
      loop_->Unwatch(handle);
      done.Notify();
    }
  });
  ASSERT_TRUE(watch.ok());
  handle = *watch;
  ready.Notify();
  ASSERT_EQ(write(writer.get(), "xyzw", 4), 4);
  done.WaitForNotification();
  Drain();
  EXPECT_EQ(got, "xyz") << "what comes after Unwatch stays unread";
}

TEST_F(IoLoopTest, AHangupReachesTheHandler) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  sys::UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  Notification done;
  auto handle = std::make_shared<IoLoop::Handle>(0);
  loop_->Post([&, handle] {
    *handle = *loop_->Watch(reader.get(), EPOLLIN, [&, handle](uint32_t events) {
      EXPECT_TRUE(events & EPOLLHUP);
      loop_->Unwatch(*handle);
      done.Notify();
    });
  });
  Drain();
  writer.reset();
  EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
}

TEST_F(IoLoopTest, AfterStopPostedClosuresRunAtOnceAndTimersNever) {
  loop_->Stop();
  bool ran = false;
  loop_->Post([&] { ran = true; });
  EXPECT_TRUE(ran);
  loop_->After(absl::ZeroDuration(), [] { FAIL(); });
  EXPECT_FALSE(loop_->Watch(0, EPOLLIN, [](uint32_t) {}).ok());
  loop_->Stop();
}

}  // namespace
}  // namespace davit::sandbox
