#include "sandbox/supervisor/event_loop.h"

#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::sandbox {
namespace {

constexpr int kBatch = 32;
constexpr uint64_t kTimerKey = ~uint64_t{0};

// A descriptor number may be closed and reused while events for its former owner are still in the
// fetched batch; the generation tells the two apart.
uint64_t Key(int fd, uint32_t generation) {
  return uint64_t{generation} << 32 | static_cast<uint32_t>(fd);
}

}  // namespace

int64_t EventLoop::Now() {
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

absl::StatusOr<std::unique_ptr<EventLoop>> EventLoop::Create() {
  std::unique_ptr<EventLoop> loop(new EventLoop);
  loop->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_.ok()) return sys::ErrnoStatus(errno, "epoll_create1");
  loop->timer_.reset(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!loop->timer_.ok()) return sys::ErrnoStatus(errno, "timerfd_create");
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kTimerKey}};
  if (epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->timer_.get(), &event) != 0) {
    return sys::ErrnoStatus(errno, "watch the timer");
  }
  return loop;
}

absl::Status EventLoop::Watch(int fd, uint32_t events, FdCallback callback) {
  const uint32_t generation = next_generation_++;
  epoll_event event{.events = events, .data = {.u64 = Key(fd, generation)}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("watch descriptor ", fd));
  }
  entries_[fd] = Entry{generation, std::make_shared<FdCallback>(std::move(callback))};
  return absl::OkStatus();
}

void EventLoop::SetEvents(int fd, uint32_t events) {
  auto it = entries_.find(fd);
  if (it == entries_.end()) return;
  epoll_event event{.events = events, .data = {.u64 = Key(fd, it->second.generation)}};
  epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd, &event);
}

void EventLoop::Unwatch(int fd) {
  if (entries_.erase(fd) > 0) epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

EventLoop::TimerId EventLoop::After(absl::Duration delay, TimerCallback callback) {
  const TimerId id = next_timer_++;
  const int64_t wait = std::clamp<int64_t>(absl::ToInt64Nanoseconds(delay), 0, int64_t{1} << 60);
  const int64_t deadline = Now() + wait;
  timers_.emplace(std::make_pair(deadline, id), std::move(callback));
  deadlines_.emplace(id, deadline);
  ArmTimer();
  return id;
}

void EventLoop::Cancel(TimerId id) {
  auto it = deadlines_.find(id);
  if (it == deadlines_.end()) return;
  timers_.erase({it->second, id});
  deadlines_.erase(it);
  // The timerfd may fire once for nothing: cheaper than arming it again.
}

void EventLoop::ArmTimer() {
  const int64_t first = timers_.empty() ? 0 : timers_.begin()->first.first;
  if (first == armed_) return;
  itimerspec spec{};
  spec.it_value.tv_sec = first / 1'000'000'000;
  spec.it_value.tv_nsec = first % 1'000'000'000;
  timerfd_settime(timer_.get(), TFD_TIMER_ABSTIME, &spec, nullptr);
  armed_ = first;
}

void EventLoop::RunTimers() {
  uint64_t expirations;
  // Only clears the descriptor; how often it fired does not matter.
  [[maybe_unused]] const ssize_t n = read(timer_.get(), &expirations, sizeof expirations);
  armed_ = 0;
  const int64_t now = Now();
  while (!stopped_ && !timers_.empty() && timers_.begin()->first.first <= now) {
    auto node = timers_.extract(timers_.begin());
    deadlines_.erase(node.key().second);
    node.mapped()();
  }
  ArmTimer();
}

void EventLoop::Dispatch(int timeout_ms) {
  epoll_event events[kBatch];
  const int count = epoll_wait(epoll_.get(), events, kBatch, timeout_ms);
  bool timer = false;
  for (int i = 0; i < count && !stopped_; ++i) {
    if (events[i].data.u64 == kTimerKey) {
      timer = true;
      continue;
    }
    const int fd = static_cast<int>(events[i].data.u64 & 0xffffffffu);
    auto it = entries_.find(fd);
    if (it == entries_.end() || it->second.generation != events[i].data.u64 >> 32) continue;
    // The callback may unwatch its own descriptor, and so drop itself.
    const std::shared_ptr<FdCallback> callback = it->second.callback;
    (*callback)(events[i].events);
  }
  // Last: what happened at the same moment as a deadline counts as having met it.
  if (timer && !stopped_) RunTimers();
  if (turn_end_ && !stopped_) turn_end_();
}

void EventLoop::Run() {
  while (!stopped_) Dispatch(-1);
}

void EventLoop::RunOnce(absl::Duration timeout) {
  Dispatch(static_cast<int>(absl::ToInt64Milliseconds(timeout)));
}

}  // namespace davit::sandbox
