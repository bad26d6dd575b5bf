#ifndef DAVIT_SANDBOX_SUPERVISOR_EVENT_LOOP_H_
#define DAVIT_SANDBOX_SUPERVISOR_EVENT_LOOP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sandbox {

// One thread's events: descriptors by epoll (level-triggered unless the caller asks otherwise) and
// timers by one timerfd on CLOCK_BOOTTIME, so that a deadline does not stretch over a suspend.
// Everything is called on the thread that calls Run. Callbacks may watch, unwatch and stop at will,
// including what is being dispatched: after Unwatch or Cancel returns, that callback never runs,
// even if its event was already fetched. Not thread-safe.
class EventLoop {
 public:
  using FdCallback = std::function<void(uint32_t epoll_events)>;
  using TimerCallback = std::function<void()>;
  using TimerId = uint64_t;  // never 0

  static absl::StatusOr<std::unique_ptr<EventLoop>> Create();

  // Calls `callback` whenever `fd` has one of `events` (man 2 epoll_ctl). The descriptor stays the
  // caller's, who unwatches it before closing it. A descriptor is watched once at a time.
  absl::Status Watch(int fd, uint32_t events, FdCallback callback);
  void SetEvents(int fd, uint32_t events);
  // Unknown descriptors are ignored.
  void Unwatch(int fd);

  TimerId After(absl::Duration delay, TimerCallback callback);
  // Unknown and expired timers are ignored.
  void Cancel(TimerId id);

  // Called after each round of dispatching, when no callback is running. One; empty: none.
  void AtTurnEnd(std::function<void()> callback) { turn_end_ = std::move(callback); }
  // The clock of timers: ns of CLOCK_BOOTTIME.
  static int64_t Now();

  // Dispatches until Stop is called.
  void Run();
  void Stop() { stopped_ = true; }
  // Waits for at most `timeout` and dispatches what happened: for tests.
  void RunOnce(absl::Duration timeout);

 private:
  struct Entry {
    uint32_t generation;
    std::shared_ptr<FdCallback> callback;
  };

  EventLoop() = default;
  void Dispatch(int timeout_ms);
  void RunTimers();
  void ArmTimer();

  sys::UniqueFd epoll_;
  sys::UniqueFd timer_;
  std::unordered_map<int, Entry> entries_;
  uint32_t next_generation_ = 1;
  std::map<std::pair<int64_t, TimerId>, TimerCallback>
      timers_;  // by deadline, ns of CLOCK_BOOTTIME
  std::unordered_map<TimerId, int64_t> deadlines_;
  TimerId next_timer_ = 1;
  int64_t armed_ = 0;
  std::function<void()> turn_end_;
  bool stopped_ = false;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_EVENT_LOOP_H_
