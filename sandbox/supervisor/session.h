#ifndef DAVIT_SANDBOX_SUPERVISOR_SESSION_H_
#define DAVIT_SANDBOX_SUPERVISOR_SESSION_H_

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/supervisor.pb.h"
#include "runtime/stage/launch.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/child_reaper.h"
#include "sandbox/supervisor/event_loop.h"
#include "sandbox/supervisor/plan_facts.h"

namespace davit::sandbox {

// The life of one process that a plan makes, a container's init or an exec session, as events of
// the loop: stage::Launch driven without ever blocking. Belongs to the loop's thread.
class Session {
 public:
  // Why there is no running payload.
  struct Failed {
    absl::Status status;  // with operation and object
    std::string operation;
    std::string object;
    int error_number = 0;
    int wait_status = 0;  // of the process, if there was one
  };
  // Called from the loop, never from within a method of the session; after OnFailed and OnExited,
  // which come once, nothing follows. The session must not be destroyed from within.
  class Listener {
   public:
    virtual ~Listener() = default;
    virtual void OnCreated() = 0;  // containers: waits for Start
    virtual void OnRunning() = 0;  // execve has succeeded
    virtual void OnFailed(const Failed& failed) = 0;
    virtual void OnExited(int wait_status) = 0;  // after OnCreated or OnRunning
  };

  Session(EventLoop* loop, ChildReaper* reaper, Listener* listener)
      : loop_(loop), reaper_(reaper), listener_(listener) {}
  // The process must have been reported as failed or exited, or never begun.
  ~Session();

  // Begins. `external` refers to `held`'s descriptors and to others that stay open; `held` are
  // closed as soon as the process has them. After `timeout` without OnCreated (containers) or
  // OnRunning (exec), it is given up: OnFailed.
  void Begin(sys::UniqueFd plan, const runtime::stage::ExternalFds& external,
             std::vector<sys::UniqueFd> held, absl::Duration timeout);
  // Containers, after OnCreated, once.
  absl::Status Start();

  // 0 before the process exists and after it has been reaped.
  pid_t pid() const { return pid_; }
  int pidfd() const { return pidfd_.get(); }
  int cgroup_fd() const { return launch_ == nullptr ? -1 : launch_->cgroup_fd(); }
  runtime::stage::Launch* launch() { return launch_.get(); }
  // Known after Begin; empty if the plan could not be read.
  const PlanFacts& facts() const { return facts_; }

  // A process that is gone is success.
  absl::Status Signal(int signal);
  // SIGKILL for the process and everything in its cgroup, also while it is being made.
  void KillAll();

  // Undoes the plan's work on the host (its cgroups) once the process is reaped, trying again while
  // they are busy, for at most `patience`. `done` may be called from within.
  void Undo(absl::Duration patience, std::function<void(absl::Status)> done);

 private:
  enum class Phase { kNew, kPreparing, kCloned, kCreated, kRunning, kFailing, kEnded };

  absl::Status BeginOrError(const runtime::stage::ExternalFds& external);
  void OnHelper();
  void LookForEnd();
  absl::Status CloneAndWatch();
  void OnReport();
  void OnTimeout();
  void OnReaped(int wait_status);
  void Fail(absl::Status status);
  // The error of a launch's call, with the operation that it names.
  void FailWithOperation(absl::Status status);
  void ReportFailure();
  void StopReport();
  void TryUndo();

  EventLoop* const loop_;
  ChildReaper* const reaper_;
  Listener* const listener_;
  std::unique_ptr<runtime::stage::Launch> launch_;
  sys::UniqueFd plan_;
  std::vector<sys::UniqueFd> held_;
  PlanFacts facts_;
  Phase phase_ = Phase::kNew;
  pid_t pid_ = 0;
  sys::UniqueFd pidfd_;
  pid_t helper_ = 0;
  int helper_fd_ = -1;
  int report_fd_ = -1;
  bool timed_out_ = false;
  Failed failed_;
  absl::Duration timeout_;
  EventLoop::TimerId timer_ = 0;
  EventLoop::TimerId undo_timer_ = 0;
  EventLoop::TimerId look_timer_ = 0;
  absl::Time undo_deadline_;
  absl::Duration undo_delay_;
  std::function<void(absl::Status)> undo_done_;
};

// A message as a protobuf string takes it: it quotes paths and commands, which need not be UTF-8.
std::string MessageOf(const absl::Status& status);

// The failure as the protocol tells it.
void FillError(const Session::Failed& failed, supervisor::v1::Error* error);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_SESSION_H_
