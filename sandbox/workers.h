#ifndef DAVIT_SANDBOX_WORKERS_H_
#define DAVIT_SANDBOX_WORKERS_H_

#include <cstddef>
#include <deque>
#include <functional>

#include "runtime/sys/mutex.h"

namespace davit::sandbox {

// Threads for the steps that block: CNI plugins, file removal, the ends of asynchronous calls.
// Threads are made when they are needed and end after some seconds without work, so that an idle
// daemon has none. Thread-safe.
class Workers {
 public:
  // `limit` bounds the threads: beyond it work waits in order.
  explicit Workers(size_t limit) : limit_(limit) {}
  // Runs what is queued to its end.
  ~Workers() { Stop(); }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  // After Stop has begun the closure runs at once, on the caller's thread: a step of a half done
  // removal is never lost.
  void Run(std::function<void()> work);

  // Waits until everything has run and the threads have ended. Not from a worker.
  void Stop();

 private:
  void Work();

  const size_t limit_;
  sys::Mutex mutex_;
  sys::CondVar changed_;
  std::deque<std::function<void()>> queue_ ABSL_GUARDED_BY(mutex_);
  size_t threads_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_WORKERS_H_
