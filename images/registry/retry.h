#ifndef DAVIT_IMAGES_REGISTRY_RETRY_H_
#define DAVIT_IMAGES_REGISTRY_RETRY_H_

#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "images/cancel.h"
#include "runtime/sys/mutex.h"

namespace davit::images {

struct RetryPolicy {
  absl::Duration base = absl::Milliseconds(500);
  absl::Duration cap = absl::Seconds(30);
  absl::Duration retry_after_cap = absl::Seconds(60);
  int request_attempts = 3;  // of a small request to the last of the hosts
  int blob_attempts = 6;     // in a row without progress
};

// The wait before attempt `attempt` (1 is the first repetition): evenly random between nothing and
// base * 2^attempt, at most cap, so that nodes which failed together do not come back together; at
// least what the server asked for with Retry-After.
absl::Duration BackoffDelay(const RetryPolicy& policy, int attempt,
                            std::optional<absl::Duration> retry_after);

// Retry-After in either form, seconds or a date (RFC 9110, 10.2.3).
std::optional<absl::Duration> ParseRetryAfter(absl::string_view value, absl::Time now);

// Answers that another try may turn into success.
bool IsRetryableStatus(int http_status);

// Cancelled if the token says so before the time is over.
absl::Status SleepFor(absl::Duration duration, const CancelToken& cancel);

// When a host said "too many requests", every pull from it waits. Thread-safe.
class Throttle {
 public:
  void Delay(const std::string& origin, absl::Duration duration);
  absl::Status Wait(const std::string& origin, const CancelToken& cancel);

 private:
  sys::Mutex mutex_;
  std::map<std::string, absl::Time> not_before_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_RETRY_H_
