#include "cri/worker_pool.h"

#include <pthread.h>
#include <signal.h>

#include <utility>

namespace davit::cri {
namespace {

// Translating a pod spec and talking to a supervisor need little; the default of 8 MiB would count
// against a locked-memory or address-space limit.
constexpr size_t kStackSize = 512 * 1024;

// pthread_create, because std::thread can neither set the stack size nor fail without throwing.
bool StartDetached(void* (*function)(void*), void* argument) {
  pthread_attr_t attributes;
  if (pthread_attr_init(&attributes) != 0) return false;
  pthread_attr_setstacksize(&attributes, kStackSize);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_t thread;
  const int error = pthread_create(&thread, &attributes, function, argument);
  pthread_attr_destroy(&attributes);
  return error == 0;
}

}  // namespace

WorkerPool::WorkerPool(int max_threads, size_t max_queued, absl::Duration idle_time,
                       std::function<void()> when_empty)
    : max_threads_(max_threads),
      max_queued_(max_queued),
      idle_time_(idle_time),
      when_empty_(std::move(when_empty)) {}

WorkerPool::~WorkerPool() {
  sys::MutexLock lock(&mutex_);
  stopping_ = true;
  work_.SignalAll();
  while (threads_ > 0) quiet_.Wait(&mutex_);
}

bool WorkerPool::Run(std::function<void()> task) {
  sys::MutexLock lock(&mutex_);
  if (stopping_ || tasks_.size() >= max_queued_) return false;
  tasks_.push_back(std::move(task));
  if (static_cast<size_t>(idle_) < tasks_.size() && threads_ < max_threads_) {
    const bool started = StartDetached(
        [](void* self) -> void* {
          static_cast<WorkerPool*>(self)->Work();
          return nullptr;
        },
        this);
    if (started) {
      ++threads_;
      return true;
    }
    if (threads_ == 0) {
      tasks_.pop_back();
      return false;
    }
  }
  work_.Signal();
  return true;
}

bool WorkerPool::WaitIdle(absl::Time deadline) {
  sys::MutexLock lock(&mutex_);
  while (!tasks_.empty() || threads_ > idle_) {
    if (quiet_.WaitWithDeadline(&mutex_, deadline)) return tasks_.empty() && threads_ <= idle_;
  }
  return true;
}

int WorkerPool::threads() const {
  sys::MutexLock lock(&mutex_);
  return threads_;
}

void WorkerPool::Work() {
  mutex_.Lock();
  for (;;) {
    const absl::Time deadline = absl::Now() + idle_time_;
    bool timed_out = false;
    while (tasks_.empty() && !stopping_ && !timed_out) {
      ++idle_;
      quiet_.SignalAll();
      timed_out = work_.WaitWithDeadline(&mutex_, deadline);
      --idle_;
    }
    if (tasks_.empty() && threads_ == 1 && !stopping_ && when_empty_ != nullptr) {
      mutex_.Unlock();
      when_empty_();
      mutex_.Lock();
    }
    if (tasks_.empty()) break;
    {
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      mutex_.Unlock();
      task();
    }
    mutex_.Lock();
  }
  --threads_;
  quiet_.SignalAll();
  mutex_.Unlock();
}

}  // namespace davit::cri
