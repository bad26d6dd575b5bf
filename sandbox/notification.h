#ifndef DAVIT_SANDBOX_NOTIFICATION_H_
#define DAVIT_SANDBOX_NOTIFICATION_H_

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/sys/mutex.h"

namespace davit::sandbox {

// Something that happens once and can be waited for: absl::Notification on a mutex that
// ThreadSanitizer knows of (see runtime/sys/mutex.h). Thread-safe. A waiter that has been notified
// may destroy it: the destructor waits until Notify has let go.
class Notification {
 public:
  Notification() = default;
  ~Notification() { sys::MutexLock lock(&mutex_); }
  void Notify() {
    sys::MutexLock lock(&mutex_);
    notified_ = true;
    changed_.SignalAll();
  }
  bool HasBeenNotified() const {
    sys::MutexLock lock(&mutex_);
    return notified_;
  }
  void WaitForNotification() { WaitForNotificationWithDeadline(absl::InfiniteFuture()); }
  // False if it has not happened by then.
  bool WaitForNotificationWithTimeout(absl::Duration timeout) {
    return WaitForNotificationWithDeadline(absl::Now() + timeout);
  }
  bool WaitForNotificationWithDeadline(absl::Time deadline) {
    sys::MutexLock lock(&mutex_);
    while (!notified_) {
      if (changed_.WaitWithDeadline(&mutex_, deadline)) break;
    }
    return notified_;
  }

 private:
  mutable sys::Mutex mutex_;
  sys::CondVar changed_;
  bool notified_ ABSL_GUARDED_BY(mutex_) = false;
};

// A number of things that all have to happen. Thread-safe, and destroyed as Notification.
class Countdown {
 public:
  explicit Countdown(size_t count) : left_(count) {}
  ~Countdown() { sys::MutexLock lock(&mutex_); }
  void DecrementCount() {
    sys::MutexLock lock(&mutex_);
    if (--left_ == 0) changed_.SignalAll();
  }
  void Wait() {
    sys::MutexLock lock(&mutex_);
    while (left_ > 0) changed_.Wait(&mutex_);
  }

 private:
  sys::Mutex mutex_;
  sys::CondVar changed_;
  size_t left_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_NOTIFICATION_H_
