#ifndef DAVIT_IMAGES_TESTING_EVENT_H_
#define DAVIT_IMAGES_TESTING_EVENT_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/sys/mutex.h"

namespace davit::images::testing {

// Something that happens once and can be awaited. Unlike absl::Notification of Debian's package,
// ThreadSanitizer understands it.
class Event {
 public:
  void Notify() {
    sys::MutexLock lock(&mutex_);
    happened_ = true;
    changed_.SignalAll();
  }
  // False if it has not happened after `limit`.
  bool Wait(absl::Duration limit = absl::Minutes(2)) {
    const absl::Time deadline = absl::Now() + limit;
    sys::MutexLock lock(&mutex_);
    while (!happened_) {
      if (changed_.WaitWithDeadline(&mutex_, deadline)) return happened_;
    }
    return true;
  }

 private:
  sys::Mutex mutex_;
  sys::CondVar changed_;
  bool happened_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace davit::images::testing

#endif  // DAVIT_IMAGES_TESTING_EVENT_H_
