#include "images/registry/retry.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"

namespace davit::images {
namespace {

TEST(RetryTest, ReadsBothFormsOfRetryAfter) {
  const absl::Time now = absl::FromUnixSeconds(1'000'000'000);
  EXPECT_EQ(ParseRetryAfter("7", now), absl::Seconds(7));
  EXPECT_EQ(ParseRetryAfter("Sun, 09 Sep 2001 01:46:50 GMT", now), absl::Seconds(10));
  EXPECT_EQ(ParseRetryAfter("Sun, 09 Sep 2001 01:46:30 GMT", now), absl::ZeroDuration());
  EXPECT_EQ(ParseRetryAfter("", now), std::nullopt);
  EXPECT_EQ(ParseRetryAfter("-1", now), std::nullopt);
  EXPECT_EQ(ParseRetryAfter("soon", now), std::nullopt);
}

TEST(RetryTest, BacksOffWithinBoundsAndObeysTheServer) {
  const RetryPolicy policy;
  for (int attempt = 0; attempt < 60; ++attempt) {
    EXPECT_LE(BackoffDelay(policy, attempt, std::nullopt), policy.cap);
    EXPECT_GE(BackoffDelay(policy, attempt, absl::Seconds(40)), absl::Seconds(40));
  }
  EXPECT_LE(BackoffDelay(policy, 1, absl::Hours(5)), policy.retry_after_cap);
}

TEST(RetryTest, ACancelledWaitEnds) {
  CancelToken cancel;
  cancel.CancelAt(absl::Now());
  EXPECT_EQ(SleepFor(absl::Hours(1), cancel).code(), absl::StatusCode::kCancelled);
  cancel.Clear();
  EXPECT_TRUE(SleepFor(absl::ZeroDuration(), cancel).ok());
  cancel.CancelForever();
  cancel.Clear();
  EXPECT_TRUE(cancel.cancelled());
}

TEST(RetryTest, AHostThatWasThrottledIsWaitedForAndOthersAreNot) {
  Throttle throttle;
  CancelToken cancel;
  const absl::Time start = absl::Now();
  throttle.Delay("http://a:1", absl::Milliseconds(50));
  EXPECT_TRUE(throttle.Wait("http://a:1", cancel).ok());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(50));
  cancel.CancelForever();
  EXPECT_TRUE(throttle.Wait("http://b:1", cancel).ok());
}

}  // namespace
}  // namespace davit::images
