#ifndef DAVIT_RUNTIME_SYS_MUTEX_H_
#define DAVIT_RUNTIME_SYS_MUTEX_H_

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace davit::sys {

// absl::Mutex, told to ThreadSanitizer. Debian's Abseil is not instrumented, so under TSan every
// absl::Mutex looks like no lock at all; the __tsan_mutex_* calls below cure that. In other builds
// this is absl::Mutex and nothing more. Guarded members carry ABSL_GUARDED_BY.
class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() {
    Pre();
    mutex_.Lock();
    Post();
  }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    PreUnlock();
    mutex_.Unlock();
    PostUnlock();
  }

 private:
  friend class CondVar;
#if defined(__SANITIZE_THREAD__)
  void Pre() { __tsan_mutex_pre_lock(this, 0); }
  void Post() { __tsan_mutex_post_lock(this, 0, 0); }
  void PreUnlock() { __tsan_mutex_pre_unlock(this, 0); }
  void PostUnlock() { __tsan_mutex_post_unlock(this, 0); }
#else
  void Pre() {}
  void Post() {}
  void PreUnlock() {}
  void PostUnlock() {}
#endif
  absl::Mutex mutex_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) {
    mutex_->Lock();
  }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// A condition variable for Mutex. Waits may wake without cause: loop on the condition.
class CondVar {
 public:
  void Wait(Mutex* mutex) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    mutex->PreUnlock();
    mutex->PostUnlock();
    cond_.Wait(&mutex->mutex_);
    mutex->Pre();
    mutex->Post();
  }
  // Returns true if the deadline passed.
  bool WaitWithDeadline(Mutex* mutex, absl::Time deadline) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    mutex->PreUnlock();
    mutex->PostUnlock();
    const bool timed_out = cond_.WaitWithDeadline(&mutex->mutex_, deadline);
    mutex->Pre();
    mutex->Post();
    return timed_out;
  }
  void Signal() { cond_.Signal(); }
  void SignalAll() { cond_.SignalAll(); }

 private:
  absl::CondVar cond_;
};

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_MUTEX_H_
