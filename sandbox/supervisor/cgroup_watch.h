#ifndef DAVIT_SANDBOX_SUPERVISOR_CGROUP_WATCH_H_
#define DAVIT_SANDBOX_SUPERVISOR_CGROUP_WATCH_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/descriptors.h"
#include "sandbox/supervisor/event_loop.h"

namespace davit::sandbox {

// Kills every process of the group behind an O_PATH directory: by cgroup.kill where there is one
// (cgroup v2, kernel >= 5.14), else one by one until none is left. Does not wait for their end.
absl::Status KillCgroup(int directory);

// What a supervisor watches in the cgroups of a container: who is in it, and whether the kernel
// killed something in it for want of memory. Belongs to the loop's thread.
class CgroupWatch {
 public:
  explicit CgroupWatch(EventLoop* loop) : loop_(loop) {}
  ~CgroupWatch() { Stop(); }
  CgroupWatch(const CgroupWatch&) = delete;
  CgroupWatch& operator=(const CgroupWatch&) = delete;

  // Opens what there is of `directories`; a container without cgroups is no error.
  void Open(const std::vector<std::string>& directories);

  // Calls back on each growth of OomKills(): memory.events with EPOLLPRI on v2, an eventfd through
  // cgroup.event_control on v1. No inotify: a machine has 128 instances of it.
  absl::Status Start(std::function<void()> on_oom);
  void Stop();

  // How many processes of the group the OOM killer has ended so far. Asked before the group is
  // removed, it is true even if no notification came.
  uint64_t OomKills() const;

  absl::Status KillAll() const;

  // For a supervisor whose program is replaced in place (proto/upgrade.proto): no event of the time
  // in between is lost.
  upgrade::v1::CgroupWatchState Save(SavedDescriptors* descriptors) const;
  // On a new object. `on_oom` as Start has it.
  absl::Status Restore(const upgrade::v1::CgroupWatchState& state,
                       InheritedDescriptors* descriptors, std::function<void()> on_oom);

 private:
  absl::Status WatchEvent(std::function<void()> on_oom);
  void OnNotification();
  void Recheck(int attempt);

  EventLoop* const loop_;
  sys::UniqueFd memory_;  // directory with memory.events or memory.oom_control
  bool memory_is_v1_ = false;
  sys::UniqueFd members_;  // directory by which to kill: the unified one if there is one
  sys::UniqueFd event_;    // what is watched
  sys::UniqueFd oom_control_;
  std::function<void()> on_oom_;
  uint64_t told_ = 0;
  EventLoop::TimerId recheck_ = 0;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_CGROUP_WATCH_H_
