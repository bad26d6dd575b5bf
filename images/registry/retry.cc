#include "images/registry/retry.h"

#include <algorithm>
#include <random>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"

namespace davit::images {

absl::Duration BackoffDelay(const RetryPolicy& policy, int attempt,
                            std::optional<absl::Duration> retry_after) {
  static thread_local std::mt19937_64 generator{std::random_device{}()};
  const absl::Duration longest =
      std::min(policy.cap, policy.base * (int64_t{1} << std::clamp(attempt, 0, 20)));
  const absl::Duration delay =
      longest * std::uniform_real_distribution<double>(0.0, 1.0)(generator);
  if (!retry_after.has_value()) return delay;
  return std::max(delay, std::clamp(*retry_after, absl::ZeroDuration(), policy.retry_after_cap));
}

std::optional<absl::Duration> ParseRetryAfter(absl::string_view value, absl::Time now) {
  value = absl::StripAsciiWhitespace(value);
  if (value.empty()) return std::nullopt;
  int64_t seconds = 0;
  if (absl::SimpleAtoi(value, &seconds)) {
    return seconds < 0 ? std::nullopt : std::optional(absl::Seconds(seconds));
  }
  absl::Time when;
  if (!absl::ParseTime("%a, %d %b %Y %H:%M:%S GMT", value, &when, nullptr)) return std::nullopt;
  return std::max(when - now, absl::ZeroDuration());
}

bool IsRetryableStatus(int status) {
  return status == 408 || status == 429 || status == 500 || status == 502 || status == 503 ||
         status == 504;
}

absl::Status SleepFor(absl::Duration duration, const CancelToken& cancel) {
  const absl::Time end = absl::Now() + duration;
  while (!cancel.cancelled()) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return absl::OkStatus();
    absl::SleepFor(std::min(left, absl::Milliseconds(200)));
  }
  return absl::CancelledError("the pull was cancelled");
}

void Throttle::Delay(const std::string& origin, absl::Duration duration) {
  sys::MutexLock lock(&mutex_);
  absl::Time& time = not_before_[origin];
  time = std::max(time, absl::Now() + duration);
}

absl::Status Throttle::Wait(const std::string& origin, const CancelToken& cancel) {
  absl::Time until = absl::InfinitePast();
  {
    sys::MutexLock lock(&mutex_);
    const auto it = not_before_.find(origin);
    if (it == not_before_.end()) return absl::OkStatus();
    until = it->second;
    if (until <= absl::Now()) not_before_.erase(it);
  }
  return SleepFor(until - absl::Now(), cancel);
}

}  // namespace davit::images
