#include "sandbox/io_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/thread.h"

namespace davit::sandbox {
namespace {

constexpr IoLoop::Handle kWakeHandle = 0;

// Timers run on the monotonic clock: a step of the wall clock must not end a grace period.
absl::Time Monotonic() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return absl::TimeFromTimespec(now);
}

}  // namespace

absl::StatusOr<std::unique_ptr<IoLoop>> IoLoop::Start() {
  auto loop = std::unique_ptr<IoLoop>(new IoLoop());
  loop->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_.ok()) return sys::ErrnoStatus(errno, "epoll_create1");
  loop->wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wake_.ok()) return sys::ErrnoStatus(errno, "eventfd");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = kWakeHandle;
  if (epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &event) != 0) {
    return sys::ErrnoStatus(errno, "watch the event loop's eventfd");
  }
  DAVIT_ASSIGN_OR_RETURN(loop->thread_, sys::StartThread([raw = loop.get()] { raw->Run(); }));
  return loop;
}

IoLoop::~IoLoop() { Stop(); }

void IoLoop::Stop() {
  {
    sys::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  Wake();
  if (thread_.joinable()) thread_.join();
  // Destroyed outside the lock: what closures own may call back into the loop.
  std::vector<Closure> posted;
  std::unordered_map<Handle, std::shared_ptr<WatchedFd>> watches;
  std::map<TimerKey, Closure> timers;
  {
    sys::MutexLock lock(&mutex_);
    posted.swap(posted_);
    watches.swap(watches_);
    timers.swap(timers_);
    timer_times_.clear();
  }
  for (Closure& closure : posted) closure();
}

void IoLoop::Post(Closure closure) {
  bool stopped = false;
  {
    sys::MutexLock lock(&mutex_);
    stopped = stopping_;
    if (!stopped) {
      posted_.push_back(std::move(closure));
      if (posted_.size() > 1) return;  // whoever made it non-empty has woken the loop
    }
  }
  if (stopped) {
    closure();
  } else if (!OnLoop()) {
    Wake();
  }
}

absl::StatusOr<IoLoop::Handle> IoLoop::Watch(int fd, uint32_t events, FdHandler handler) {
  auto watched = std::make_shared<WatchedFd>();
  watched->fd = fd;
  watched->handler = std::move(handler);
  sys::MutexLock lock(&mutex_);
  if (stopping_) return absl::UnavailableError("watch a descriptor: the event loop has ended");
  const Handle handle = next_handle_++;
  epoll_event event{};
  event.events = events;
  event.data.u64 = handle;
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("watch descriptor ", fd));
  }
  watches_.emplace(handle, std::move(watched));
  return handle;
}

void IoLoop::Unwatch(Handle handle) {
  std::shared_ptr<WatchedFd> watched;
  sys::MutexLock lock(&mutex_);
  const auto it = watches_.find(handle);
  if (it == watches_.end()) return;
  watched = std::move(it->second);
  watches_.erase(it);
  epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, watched->fd, nullptr);
}

IoLoop::Handle IoLoop::After(absl::Duration delay, Closure closure) {
  bool first;
  Handle handle;
  {
    sys::MutexLock lock(&mutex_);
    handle = next_handle_++;
    if (stopping_ || delay == absl::InfiniteDuration()) return handle;
    const absl::Time at = Monotonic() + delay;
    first = timers_.empty() || at < timers_.begin()->first.first;
    timers_.emplace(TimerKey(at, handle), std::move(closure));
    timer_times_.emplace(handle, at);
  }
  if (first && !OnLoop()) Wake();
  return handle;
}

void IoLoop::Cancel(Handle handle) {
  Closure dropped;  // destroyed after the lock is gone
  sys::MutexLock lock(&mutex_);
  const auto it = timer_times_.find(handle);
  if (it == timer_times_.end()) return;
  const auto timer = timers_.find(TimerKey(it->second, handle));
  dropped = std::move(timer->second);
  timers_.erase(timer);
  timer_times_.erase(it);
}

void IoLoop::Wake() {
  const uint64_t one = 1;
  // A full counter (EAGAIN) has woken the loop already.
  [[maybe_unused]] const ssize_t n = write(wake_.get(), &one, sizeof one);
}

void IoLoop::Run() {
  for (;;) {
    epoll_event events[64];
    const int n = epoll_wait(epoll_.get(), events, 64, NextTimeoutMs());
    {
      sys::MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    for (int i = 0; i < std::max(n, 0); ++i) {
      if (events[i].data.u64 == kWakeHandle) {
        uint64_t count;
        [[maybe_unused]] const ssize_t got = read(wake_.get(), &count, sizeof count);
      } else {
        Dispatch(events[i].data.u64, events[i].events);
      }
    }
    RunPosted();
    RunTimers();
  }
}

void IoLoop::Dispatch(Handle handle, uint32_t events) {
  std::shared_ptr<WatchedFd> watched;
  {
    sys::MutexLock lock(&mutex_);
    const auto it = watches_.find(handle);
    // Unwatched by an earlier handler of the same round.
    if (it == watches_.end()) return;
    watched = it->second;
  }
  watched->handler(events);
}

void IoLoop::RunPosted() {
  std::vector<Closure> round;
  {
    sys::MutexLock lock(&mutex_);
    round.swap(posted_);
  }
  for (Closure& closure : round) closure();
}

void IoLoop::RunTimers() {
  for (;;) {
    Closure closure;
    {
      sys::MutexLock lock(&mutex_);
      if (timers_.empty() || timers_.begin()->first.first > Monotonic()) return;
      closure = std::move(timers_.begin()->second);
      timer_times_.erase(timers_.begin()->first.second);
      timers_.erase(timers_.begin());
    }
    closure();
  }
}

int IoLoop::NextTimeoutMs() {
  sys::MutexLock lock(&mutex_);
  if (!posted_.empty() || stopping_) return 0;
  if (timers_.empty()) return -1;
  const absl::Duration wait = timers_.begin()->first.first - Monotonic();
  if (wait <= absl::ZeroDuration()) return 0;
  // Rounded up: waking early would spin until the timer is due.
  const int64_t ms = absl::ToInt64Milliseconds(absl::Ceil(wait, absl::Milliseconds(1)));
  return static_cast<int>(std::min<int64_t>(ms, INT_MAX));
}

}  // namespace davit::sandbox
