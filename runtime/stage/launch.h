#ifndef DAVIT_RUNTIME_STAGE_LAUNCH_H_
#define DAVIT_RUNTIME_STAGE_LAUNCH_H_

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/plan/plan.h"
#include "runtime/sys/unique_fd.h"

namespace davit::runtime::stage {

// Descriptors that the creator supplies, by plan::Slot; -1 = not given. Borrowed: they must stay
// open until Clone has returned. A plan that needs one that is missing fails in Open.
struct ExternalFds {
  std::array<int, plan::kExternalSlots> fds;
  ExternalFds() { fds.fill(-1); }
  int& operator[](plan::Slot slot) { return fds[slot]; }
  int operator[](plan::Slot slot) const { return fds[slot]; }
};

// The operation that failed.
struct Failure {
  std::string operation;  // "mount", "exec", ...; the name of the plan's operation
  std::string object;     // what it was applied to: a path, a command; may be empty
  int error_number = 0;
  // "<operation> <object>: No such file or directory (ENOENT)", with ErrnoToCode's code.
  absl::Status ToStatus() const;
};

// How long one operation took.
struct Timing {
  std::string operation;
  std::string object;
  uint32_t nanoseconds = 0;
};

enum class Event {
  kNothing,  // nothing new
  kCreated,  // set up; waits for Start (containers only)
  kRunning,  // execve has succeeded
  kFailed,   // failure() tells; the process has ended or is about to, and must be reaped
};

// What a creator that replaces itself in place (execve) has to hand on of a launch whose process
// exists. It does not need the plan: the next program may not know its format. Descriptors are -1
// where there is none.
struct LaunchState {
  // A cgroup directory to be removed at the end, and how many levels of it were made.
  struct Group {
    std::string directory;
    uint32_t made = 0;
  };
  // An operation that the process has still to execute, so that its failure can be named.
  struct Step {
    int32_t number = 0;
    std::string operation;
    std::string object;
  };
  std::vector<Group> groups;  // in the order of their making
  std::vector<Step> steps;    // while it waits for Start, else empty
  uint32_t shared_layout = 0;
  int report = -1;  // while it waits for Start; with it:
  int shared = -1;  // the memory that the process reports through
  int rootfs_clone = -1;
  int cgroup = -1;
};

// Brings one container, or one exec session, into being: the creator's half of the stage. Lives in
// the creator (davit-pod), which is the parent of the process.
//
//   Open -> Prepare [-> helper ends -> FinishPrepare] -> Clone -> report_fd readable: Read ...
//        -> kCreated -> Start -> kRunning
//
// None of the calls blocks for longer than some system calls on davit's own files. Paths of users
// (bind sources), which may hang, are opened by a helper process, which hands them over at its end;
// the creator waits for it by pidfd, with its own deadline.
//
// Every call that fails leaves the object in a state in which only Undo and destruction are useful.
// The creator reaps both the helper and the process. Not thread-safe; one launch at a time in Clone
// (it changes the calling thread's pid namespace for children and back).
class Launch {
 public:
  // Maps and validates the plan (a sealed memfd; borrowed). FailedPrecondition: another plan
  // version.
  static absl::StatusOr<std::unique_ptr<Launch>> Open(int plan_fd, const ExternalFds& external);
  // Closes what the launch still holds. Undoes nothing, kills nothing.
  ~Launch();

  // Executes the parent operations in order up to the first that may hang. If there is one, it and
  // the rest run in a helper: helper_pidfd() is then valid, and FinishPrepare must be called when
  // it becomes readable. To give up: kill the helper (SIGKILL by pidfd), wait until it is readable,
  // FinishPrepare (which fails, and says which path hung), Undo.
  absl::Status Prepare();
  int helper_pidfd() const { return helper_pidfd_.get(); }  // -1: none
  // Reaps the helper and takes what it opened. Call it only when helper_pidfd() is readable.
  absl::Status FinishPrepare();

  // Starts the process. Bind sources and other descriptors of the creator's side are closed when it
  // returns.
  absl::Status Clone();
  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  sys::UniqueFd TakePidfd() { return std::move(pidfd_); }

  // Readable when Read has something to tell. Non-blocking. -1 after kRunning or kFailed.
  int report_fd() const { return report_.get(); }
  Event Read();
  const Failure& failure() const { return failure_; }

  // Lets a created container go on to its payload. Once, after kCreated.
  absl::Status Start();

  // The pty's master (plans with a terminal), after kCreated, or for exec after kRunning.
  sys::UniqueFd TakeConsole() { return std::move(console_); }
  // A detached clone of the rootfs mount, after kCreated; -1 if the plan keeps none. It reads and
  // can be cloned again as long as it is held, also after the container's death.
  int rootfs_clone_fd() const { return rootfs_clone_.get(); }
  sys::UniqueFd TakeRootfsClone() { return std::move(rootfs_clone_); }
  // The process's cgroup v2 directory (for cgroup.kill and events); -1 if there is none. After
  // Prepare.
  int cgroup_fd() const;

  // Undoes the completed parent operations in reverse order (removes the cgroups; the upper
  // directory stays, it belongs to whoever named it). The process must have been reaped.
  // Unavailable while a cgroup is still busy: call again. Idempotent.
  absl::Status Undo();
  // The same without a launch, for a creator that was replaced since: removes what the plan makes.
  // What is already gone is success.
  static absl::Status UndoPlan(int plan_fd);

  // For a creator about to replace itself: the state after kCreated, or after kRunning. The
  // descriptors stay the launch's; they have to live on in the next program under their numbers.
  // FailedPrecondition in any other phase.
  absl::StatusOr<LaunchState> Save() const;
  // The launch again, in that program. Takes the descriptors, also on failure. What works on it:
  // Read, Start, TakeRootfsClone, cgroup_fd, Undo and Save.
  static absl::StatusOr<std::unique_ptr<Launch>> Restore(LaunchState state);

  // Every operation executed so far, in order; none of a restored launch.
  std::vector<Timing> Timings() const;

  Launch(const Launch&) = delete;
  Launch& operator=(const Launch&) = delete;

 private:
  struct Mapping;  // the plan, the shared page and everything prepared for the child
  struct Carried;  // in place of it, in a restored launch
  Launch();

  absl::Status TakeSecond();
  absl::Status FailAt(uint32_t op, int error);
  void CloseSlots();

  std::unique_ptr<Mapping> mapping_;
  std::unique_ptr<Carried> carried_;
  pid_t helper_pid_ = -1;
  sys::UniqueFd helper_pidfd_;
  sys::UniqueFd slots_;  // what the helper sends
  pid_t pid_ = -1;
  sys::UniqueFd pidfd_;
  sys::UniqueFd report_;
  sys::UniqueFd console_;
  sys::UniqueFd rootfs_clone_;
  Failure failure_;
};

}  // namespace davit::runtime::stage

#endif  // DAVIT_RUNTIME_STAGE_LAUNCH_H_
