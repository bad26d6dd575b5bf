#include "sandbox/workers.h"

#include <atomic>
#include <memory>

#include "absl/synchronization/barrier.h"
#include "gtest/gtest.h"
#include "sandbox/notification.h"

namespace davit::sandbox {
namespace {

TEST(WorkersTest, BlockedWorkDoesNotKeepOtherWorkFromRunning) {
  Workers workers(4);
  Notification release, ran;
  for (int i = 0; i < 3; ++i) workers.Run([&] { release.WaitForNotification(); });
  workers.Run([&] { ran.Notify(); });
  EXPECT_TRUE(ran.WaitForNotificationWithTimeout(absl::Seconds(10)));
  release.Notify();
}

TEST(WorkersTest, WorkBeyondTheLimitWaitsAndThenRuns) {
  std::atomic<int> running = 0, most = 0, done = 0;
  {
    Workers workers(2);
    for (int i = 0; i < 50; ++i) {
      workers.Run([&] {
        const int now = ++running;
        int seen = most;
        while (now > seen && !most.compare_exchange_weak(seen, now)) {
        }
        --running;
        ++done;
      });
    }
  }
  EXPECT_EQ(done, 50) << "the destructor runs what is queued";
  EXPECT_LE(most, 2);
}

TEST(WorkersTest, WorkGivenAfterStopRunsOnTheCallersThread) {
  Workers workers(1);
  workers.Stop();
  bool ran = false;
  workers.Run([&] { ran = true; });
  EXPECT_TRUE(ran);
}

}  // namespace
}  // namespace davit::sandbox
