#include "sandbox/workers.h"

#include <pthread.h>

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

TEST(WorkersTest, WithoutAThreadTheWorkIsDoneByItsCaller) {
  pthread_attr_t usual, huge;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(pthread_attr_init(&huge), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&huge, size_t{1} << 50), 0);
  Workers workers(4);
  ASSERT_EQ(pthread_setattr_default_np(&huge), 0);
  bool done = false;
  workers.Run([&] { done = true; });
  ASSERT_EQ(pthread_setattr_default_np(&usual), 0);
  EXPECT_TRUE(done);
}

}  // namespace
}  // namespace davit::sandbox
