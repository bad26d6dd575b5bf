#ifndef DAVIT_SANDBOX_SUPERVISOR_CHILD_REAPER_H_
#define DAVIT_SANDBOX_SUPERVISOR_CHILD_REAPER_H_

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "absl/status/statusor.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/event_loop.h"

namespace davit::sandbox {

// Waits for every child of this process: those that somebody asked for, and orphans that came to it
// as a subreaper (man 2 prctl, PR_SET_CHILD_SUBREAPER). Belongs to the loop's thread. SIGCHLD must
// be blocked in all threads.
class ChildReaper {
 public:
  // `wait_status` as man 2 waitpid.
  using ExitCallback = std::function<void(int wait_status)>;

  static absl::StatusOr<std::unique_ptr<ChildReaper>> Create(EventLoop* loop);
  ~ChildReaper();

  // Calls back once, when the child has ended and has been reaped. `pidfd` is borrowed until then
  // or until Forget.
  absl::Status Await(pid_t pid, int pidfd, ExitCallback callback);
  // Takes the child for an orphan from now on.
  void Forget(pid_t pid);

  // Leaves a child to somebody else, who will reap it himself.
  void Leave(pid_t pid) { left_.insert(pid); }
  void LeftIsReaped(pid_t pid);
  // Reaps a child that was left to the caller, if it has ended: its wait status, and it is no more.
  std::optional<int> ReapLeft(pid_t pid);

 private:
  struct Child {
    int pidfd;
    ExitCallback callback;
  };

  explicit ChildReaper(EventLoop* loop) : loop_(loop) {}
  void OnExit(pid_t pid);
  void ReapOrphans();

  EventLoop* const loop_;
  sys::UniqueFd signal_;
  std::map<pid_t, Child> children_;
  std::set<pid_t> left_;
};

// The process behind a pidfd (in the caller's PID namespace), 0 if it is gone or `pidfd` is none.
pid_t PidOfPidfd(int pidfd);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_CHILD_REAPER_H_
