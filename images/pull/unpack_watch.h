#ifndef DAVIT_IMAGES_PULL_UNPACK_WATCH_H_
#define DAVIT_IMAGES_PULL_UNPACK_WATCH_H_

#include <atomic>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "images/cancel.h"
#include "images/unpack/client.h"
#include "runtime/sys/mutex.h"

namespace davit::images {

// Aborts an unpacker when the pull is cancelled, or when it has work and its counters stand still.
// Lives as long as other code blocks in the unpacker.
class UnpackWatch {
 public:
  UnpackWatch(unpack::Unpacker* unpacker, absl::Duration stall_timeout, const CancelToken* cancel);
  ~UnpackWatch();
  // Once, before anything else. ResourceExhausted: there is no thread for it.
  absl::Status Start();

  // More has been given to the unpacker.
  void Fed(size_t bytes) { fed_.fetch_add(bytes); }
  // Everything has been given: from now on it always has work.
  void Finishing() { finishing_.store(true); }
  bool stalled() const { return stalled_.load(); }

 private:
  void Run();
  bool HasWork(const unpack::Progress& progress) const {
    return finishing_.load() || progress.compressed_bytes < fed_.load();
  }

  unpack::Unpacker* const unpacker_;
  const absl::Duration stall_timeout_;
  const CancelToken* const cancel_;
  std::atomic<uint64_t> fed_{0};
  std::atomic<bool> finishing_{false};
  std::atomic<bool> stalled_{false};
  sys::Mutex mutex_;
  sys::CondVar wake_;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_UNPACK_WATCH_H_
