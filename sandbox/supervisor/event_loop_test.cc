#include "sandbox/supervisor/event_loop.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <vector>

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

struct Pipe {
  Pipe() {
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    read.reset(fds[0]);
    write.reset(fds[1]);
  }
  void Put() const { EXPECT_EQ(::write(write.get(), "x", 1), 1); }
  sys::UniqueFd read, write;
};

TEST(EventLoopTest, ADescriptorIsReportedUntilItIsUnwatched) {
  auto loop = *EventLoop::Create();
  Pipe pipe;
  int calls = 0;
  ASSERT_TRUE(loop->Watch(pipe.read.get(), EPOLLIN,
                          [&](uint32_t events) {
                            EXPECT_NE(events & EPOLLIN, 0u);
                            if (++calls == 3) loop->Stop();
                          })
                  .ok());
  pipe.Put();
  loop->Run();
  EXPECT_EQ(calls, 3);
}

TEST(EventLoopTest, ACallbackMayUnwatchItselfAndItsNeighbours) {
  auto loop = *EventLoop::Create();
  Pipe a, b;
  int calls = 0;
  auto once = [&](uint32_t) {
    ++calls;
    loop->Unwatch(a.read.get());
    loop->Unwatch(b.read.get());
  };
  ASSERT_TRUE(loop->Watch(a.read.get(), EPOLLIN, once).ok());
  ASSERT_TRUE(loop->Watch(b.read.get(), EPOLLIN, once).ok());
  a.Put();
  b.Put();
  loop->RunOnce(absl::Seconds(1));
  loop->RunOnce(absl::ZeroDuration());
  EXPECT_EQ(calls, 1);
}

TEST(EventLoopTest, AnEventForAClosedDescriptorDoesNotReachTheNextOwnerOfItsNumber) {
  auto loop = *EventLoop::Create();
  Pipe a, b;
  int stale = 0;
  int first = -1;
  auto callback = [&](uint32_t) {
    if (first >= 0) return;
    // Replace the other one by a fresh, silent pipe with the same number.
    Pipe silent;
    first = 0;
    for (Pipe* pipe : {&a, &b}) {
      const int fd = pipe->read.get();
      loop->Unwatch(fd);
      ASSERT_EQ(dup3(silent.read.get(), fd, O_CLOEXEC), fd);
      ASSERT_TRUE(loop->Watch(fd, EPOLLIN,
                              [&](uint32_t events) {
                                if ((events & EPOLLIN) != 0) ++stale;
                              })
                      .ok());
    }
  };
  ASSERT_TRUE(loop->Watch(a.read.get(), EPOLLIN, callback).ok());
  ASSERT_TRUE(loop->Watch(b.read.get(), EPOLLIN, callback).ok());
  a.Put();
  b.Put();
  loop->RunOnce(absl::Seconds(1));
  EXPECT_EQ(stale, 0);
}

TEST(EventLoopTest, TimersRunInTheOrderOfTheirDeadlines) {
  auto loop = *EventLoop::Create();
  std::vector<int> order;
  loop->After(absl::Milliseconds(6), [&] {
    order.push_back(3);
    loop->Stop();
  });
  loop->After(absl::Milliseconds(2), [&] { order.push_back(1); });
  loop->After(absl::Milliseconds(4), [&] { order.push_back(2); });
  loop->Run();
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(EventLoopTest, ACancelledTimerNeverRuns) {
  auto loop = *EventLoop::Create();
  bool ran = false;
  const auto cancelled = loop->After(absl::Milliseconds(1), [&] { ran = true; });
  loop->After(absl::ZeroDuration(), [&] { loop->Cancel(cancelled); });
  loop->After(absl::Milliseconds(3), [&] { loop->Stop(); });
  loop->Run();
  EXPECT_FALSE(ran);
}

TEST(EventLoopTest, AnInfiniteDelayIsNoError) {
  auto loop = *EventLoop::Create();
  loop->After(absl::InfiniteDuration(), [] { FAIL(); });
  loop->After(absl::Milliseconds(1), [&] { loop->Stop(); });
  loop->Run();
}

TEST(EventLoopTest, ATimerMayStartAnother) {
  auto loop = *EventLoop::Create();
  int depth = 0;
  std::function<void()> next = [&] {
    if (++depth == 3) return loop->Stop();
    loop->After(absl::ZeroDuration(), next);
  };
  loop->After(absl::ZeroDuration(), next);
  loop->Run();
  EXPECT_EQ(depth, 3);
}

TEST(EventLoopTest, WatchingABadDescriptorIsAnError) {
  auto loop = *EventLoop::Create();
  EXPECT_FALSE(loop->Watch(-1, EPOLLIN, [](uint32_t) {}).ok());
}

}  // namespace
}  // namespace davit::sandbox
