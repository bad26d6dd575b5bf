#include "cri/worker_pool.h"

#include <atomic>
#include <memory>

#include "absl/synchronization/barrier.h"
#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace davit::cri {
namespace {

TEST(WorkerPoolTest, RunsAsManyTasksAtOnceAsThereAreThreads) {
  WorkerPool pool(4, 100, absl::Seconds(10));
  EXPECT_EQ(pool.threads(), 0);
  // Ends only if four tasks and this thread are inside it at the same time.
  auto* barrier = new absl::Barrier(5);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(pool.Run([barrier] {
      if (barrier->Block()) delete barrier;
    }));
  }
  if (barrier->Block()) delete barrier;
  EXPECT_LE(pool.threads(), 4);
}

TEST(WorkerPoolTest, NeverGrowsBeyondItsLimitAndRefusesWhatCannotBeQueued) {
  absl::Notification go;
  absl::Notification started;
  {
    WorkerPool pool(1, 1, absl::Seconds(10));
    ASSERT_TRUE(pool.Run([&] {
      started.Notify();
      go.WaitForNotification();
    }));
    started.WaitForNotification();
    EXPECT_TRUE(pool.Run([] {}));
    EXPECT_FALSE(pool.Run([] {}));
    EXPECT_EQ(pool.threads(), 1);
    go.Notify();
  }
}

TEST(WorkerPoolTest, RunsWhatIsQueuedBeforeItEnds) {
  std::atomic<int> ran = 0;
  {
    WorkerPool pool(2, 1000, absl::Seconds(10));
    for (int i = 0; i < 500; ++i) ASSERT_TRUE(pool.Run([&] { ++ran; }));
  }
  EXPECT_EQ(ran, 500);
}

TEST(WorkerPoolTest, WaitsUntilNothingRuns) {
  WorkerPool pool(2, 10, absl::Seconds(10));
  EXPECT_TRUE(pool.WaitIdle(absl::InfinitePast()));
  absl::Notification go;
  ASSERT_TRUE(pool.Run([&] { go.WaitForNotification(); }));
  EXPECT_FALSE(pool.WaitIdle(absl::Now() + absl::Milliseconds(5)));
  go.Notify();
  EXPECT_TRUE(pool.WaitIdle(absl::InfiniteFuture()));
}

TEST(WorkerPoolTest, AThreadWithNothingToDoEnds) {
  WorkerPool pool(4, 10, absl::Milliseconds(1));
  absl::Notification done;
  ASSERT_TRUE(pool.Run([&] { done.Notify(); }));
  done.WaitForNotification();
  const absl::Time deadline = absl::Now() + absl::Seconds(30);
  while (pool.threads() > 0 && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(pool.threads(), 0);
}

TEST(WorkerPoolTest, TheLastThreadSaysThatItEnds) {
  absl::Notification empty;
  WorkerPool pool(4, 10, absl::Milliseconds(1), [&] {
    if (!empty.HasBeenNotified()) empty.Notify();
  });
  ASSERT_TRUE(pool.Run([] {}));
  empty.WaitForNotification();
}

}  // namespace
}  // namespace davit::cri
