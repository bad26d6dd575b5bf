#ifndef DAVIT_IMAGES_CANCEL_H_
#define DAVIT_IMAGES_CANCEL_H_

#include <atomic>
#include <cstdint>
#include <limits>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace davit::images {

// Tells long work to stop, now or at a later time; the later time can be taken back. Whoever works
// asks cancelled() at least every quarter of a second. Thread-safe, lock-free.
class CancelToken {
 public:
  CancelToken() = default;
  // Is cancelled too when `parent`, which must outlive it, is.
  explicit CancelToken(const CancelToken* parent) : parent_(parent) {}

  void CancelAt(absl::Time when) { when_.store(absl::ToUnixNanos(when)); }
  // Takes a CancelAt back, but not a CancelForever.
  void Clear() { when_.store(kNever); }
  void CancelForever() { forever_.store(true); }

  bool cancelled() const {
    return forever_.load() || absl::ToUnixNanos(absl::Now()) >= when_.load() ||
           (parent_ != nullptr && parent_->cancelled());
  }

 private:
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> when_{kNever};
  std::atomic<bool> forever_{false};
  const CancelToken* const parent_ = nullptr;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_CANCEL_H_
