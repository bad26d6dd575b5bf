#include "sandbox/workers.h"

#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/sys/thread.h"

namespace davit::sandbox {
namespace {

constexpr absl::Duration kIdleTime = absl::Seconds(10);

}  // namespace

void Workers::Run(std::function<void()> work) {
  std::function<void()> at_once;
  bool start = false;
  {
    sys::MutexLock lock(&mutex_);
    if (stopping_) {
      at_once = std::move(work);
    } else {
      queue_.push_back(std::move(work));
      if (queue_.size() > idle_ && threads_ < limit_) {
        ++threads_;
        start = true;
      } else {
        changed_.Signal();
      }
    }
  }
  if (at_once) at_once();
  // Detached, and counted instead: Stop waits for the count, and an idle thread can simply end.
  if (!start) return;
  auto thread = sys::StartThread([this] { Work(); });
  if (thread.ok()) return thread->detach();
  // The threads that are there do it. Without any it is done here: late is better than never.
  sys::MutexLock lock(&mutex_);
  --threads_;
  changed_.SignalAll();
  while (threads_ == 0 && !queue_.empty()) {
    at_once = std::move(queue_.front());
    queue_.pop_front();
    mutex_.Unlock();
    at_once();
    at_once = nullptr;
    mutex_.Lock();
  }
}

void Workers::Stop() {
  sys::MutexLock lock(&mutex_);
  stopping_ = true;
  changed_.SignalAll();
  while (threads_ > 0) changed_.Wait(&mutex_);
}

void Workers::Work() {
  sys::MutexLock lock(&mutex_);
  for (;;) {
    ++idle_;
    const absl::Time deadline = absl::Now() + kIdleTime;
    while (queue_.empty() && !stopping_) {
      if (changed_.WaitWithDeadline(&mutex_, deadline)) break;
    }
    --idle_;
    if (queue_.empty()) break;
    std::function<void()> work = std::move(queue_.front());
    queue_.pop_front();
    mutex_.Unlock();
    work();
    work = nullptr;  // what it owns goes without the lock
    mutex_.Lock();
  }
  --threads_;
  changed_.SignalAll();
}

}  // namespace davit::sandbox
