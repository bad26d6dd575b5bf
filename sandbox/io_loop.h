#ifndef DAVIT_SANDBOX_IO_LOOP_H_
#define DAVIT_SANDBOX_IO_LOOP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sandbox {

// One thread that waits for descriptors, timers and posted closures (man 7 epoll), and runs what
// was registered for them, one at a time. Everything it runs must return soon: it serves every
// supervisor connection, stop timer and exec pipe of the node.
//
// Thread-safe. Closures run without any lock held and may call every method but Stop.
class IoLoop {
 public:
  using Closure = std::function<void()>;
  using FdHandler = std::function<void(uint32_t events)>;
  using Handle = uint64_t;  // 0 is never one

  static absl::StatusOr<std::unique_ptr<IoLoop>> Start();
  ~IoLoop();

  // Runs `closure` on the loop, in the order of posting. After Stop it runs at once, on the
  // caller's thread: nobody who waits for what it does waits for ever. Not to be called with a lock
  // held that the closure takes.
  void Post(Closure closure);

  // Calls `handler` whenever `fd` has one of `events` (level-triggered EPOLLIN, ...; EPOLLERR and
  // EPOLLHUP always). The caller keeps owning `fd` and calls Unwatch before closing it.
  absl::StatusOr<Handle> Watch(int fd, uint32_t events, FdHandler handler);
  // On the loop's own thread no call follows; from another thread one may still be running.
  void Unwatch(Handle handle);

  // Runs `closure` once after `delay`, unless cancelled; the same holds for Cancel as for Unwatch.
  // An infinite delay never fires.
  Handle After(absl::Duration delay, Closure closure);
  void Cancel(Handle handle);

  bool OnLoop() const { return std::this_thread::get_id() == thread_.get_id(); }

  // Ends the thread, runs what is still posted, and drops watches and timers. Not from the loop
  // itself. Idempotent.
  void Stop();

 private:
  struct WatchedFd {
    int fd;
    FdHandler handler;
  };
  using TimerKey = std::pair<absl::Time, Handle>;

  IoLoop() = default;
  void Run();
  void Wake();
  void RunPosted();
  void RunTimers();
  int NextTimeoutMs();
  void Dispatch(Handle handle, uint32_t events);

  sys::UniqueFd epoll_;
  sys::UniqueFd wake_;  // eventfd
  std::thread thread_;

  sys::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Handle next_handle_ ABSL_GUARDED_BY(mutex_) = 1;
  std::vector<Closure> posted_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<Handle, std::shared_ptr<WatchedFd>> watches_ ABSL_GUARDED_BY(mutex_);
  std::map<TimerKey, Closure> timers_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<Handle, absl::Time> timer_times_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_IO_LOOP_H_
