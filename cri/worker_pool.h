#ifndef DAVIT_CRI_WORKER_POOL_H_
#define DAVIT_CRI_WORKER_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "runtime/sys/mutex.h"

namespace davit::cri {

// Threads for calls that block. Starts none until there is work, grows by one whenever work arrives
// and nobody is idle, up to `max_threads`; a thread that was idle for `idle_time` ends: an idle
// daemon keeps no thread stacks. Thread-safe.
class WorkerPool {
 public:
  // `when_empty`, if not null, is called by the last thread each time before it ends.
  WorkerPool(int max_threads, size_t max_queued, absl::Duration idle_time,
             std::function<void()> when_empty = nullptr);
  // Runs what is queued to its end and waits for all threads.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // False if `max_queued` tasks wait already, or if no thread could be started and none runs.
  bool Run(std::function<void()> task);

  // Waits until nothing is queued or running. False if that takes beyond `deadline`.
  bool WaitIdle(absl::Time deadline);

  // Threads alive now.
  int threads() const;

 private:
  void Work();

  const int max_threads_;
  const size_t max_queued_;
  const absl::Duration idle_time_;
  const std::function<void()> when_empty_;
  mutable sys::Mutex mutex_;
  sys::CondVar work_;   // there is a task, or the pool ends
  sys::CondVar quiet_;  // a thread has nothing to do, or has ended
  std::deque<std::function<void()>> tasks_ ABSL_GUARDED_BY(mutex_);
  int threads_ ABSL_GUARDED_BY(mutex_) = 0;
  int idle_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace davit::cri

#endif  // DAVIT_CRI_WORKER_POOL_H_
