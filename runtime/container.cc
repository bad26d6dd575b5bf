#include "runtime/container.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/plan/plan.h"
#include "runtime/seccomp/compile.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"

namespace davit::runtime {
namespace {

using spec::NamespaceType;
using stage::Event;
using stage::Launch;

constexpr absl::Duration kKillTime = absl::Seconds(10);

// True when `fd` is readable before the deadline.
absl::StatusOr<bool> AwaitReadable(int fd, absl::Time deadline) {
  for (;;) {
    const absl::Duration left =
        std::clamp(deadline - absl::Now(), absl::ZeroDuration(), absl::Hours(1));
    pollfd poll_fd = {fd, POLLIN, 0};
    const int ready = poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return true;
    if (ready < 0 && errno != EINTR) return sys::ErrnoStatus(errno, "poll");
    if (absl::Now() >= deadline) return false;
  }
}

// Reaps the process behind a launch, if there is one.
void Reap(Launch& launch) {
  if (launch.pidfd() < 0) return;
  (void)sys::KillPidfd(launch.pidfd(), SIGKILL);
  (void)sys::WaitPidfd(launch.pidfd(), absl::Now() + kKillTime);
}

// Undoes, waiting for processes on their way out of a cgroup.
absl::Status UndoAll(Launch& launch) {
  const absl::Time deadline = absl::Now() + kKillTime;
  for (;;) {
    const absl::Status status = launch.Undo();
    if (!absl::IsUnavailable(status) || absl::Now() >= deadline) return status;
    absl::SleepFor(absl::Milliseconds(1));
  }
}

absl::Status Prepare(Launch& launch, absl::Time deadline) {
  DAVIT_RETURN_IF_ERROR(launch.Prepare());
  if (launch.helper_pidfd() < 0) return absl::OkStatus();
  DAVIT_ASSIGN_OR_RETURN(const bool done, AwaitReadable(launch.helper_pidfd(), deadline));
  if (!done) {
    DAVIT_RETURN_IF_ERROR(sys::KillPidfd(launch.helper_pidfd(), SIGKILL));
    (void)AwaitReadable(launch.helper_pidfd(), absl::InfiniteFuture());
  }
  return launch.FinishPrepare();
}

// Reads the report until something has happened.
absl::Status AwaitEvent(Launch& launch, Event wanted, absl::Time deadline) {
  for (;;) {
    DAVIT_ASSIGN_OR_RETURN(const bool readable, AwaitReadable(launch.report_fd(), deadline));
    if (!readable) return absl::DeadlineExceededError("the container does not come up");
    const Event event = launch.Read();
    if (event == wanted) return absl::OkStatus();
    if (event == Event::kFailed) return launch.failure().ToStatus();
  }
}

absl::StatusOr<std::unique_ptr<Launch>> Begin(const plan::CompiledPlan& compiled,
                                              const stage::ExternalFds& external, Event wanted,
                                              absl::Time deadline) {
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd plan, sys::SealedMemfd("plan", compiled.blob));
  DAVIT_ASSIGN_OR_RETURN(std::unique_ptr<Launch> launch, Launch::Open(plan.get(), external));
  absl::Status status = Prepare(*launch, deadline);
  if (status.ok()) status = launch->Clone();
  if (status.ok()) status = AwaitEvent(*launch, wanted, deadline);
  if (status.ok()) return launch;
  Reap(*launch);
  const absl::Status undone = UndoAll(*launch);
  if (!undone.ok()) return sys::Annotate(status, absl::StrCat("(and ", undone.message(), ")"));
  return status;
}

}  // namespace

Session::~Session() {
  if (launch_ == nullptr) return;
  if (!status_.has_value()) Reap(*launch_);
  (void)UndoAll(*launch_);
}

absl::StatusOr<int> Session::Wait(absl::Time deadline) {
  if (!status_.has_value()) {
    DAVIT_ASSIGN_OR_RETURN(status_, sys::WaitPidfd(launch_->pidfd(), deadline));
  }
  return *status_;
}

absl::Status Session::Kill(int signal) { return sys::KillPidfd(launch_->pidfd(), signal); }

Container::~Container() { (void)Delete(/*force=*/true); }

absl::StatusOr<std::unique_ptr<Container>> Container::Create(const Options& options) {
  std::unique_ptr<Container> container(new Container());
  container->deleted_ = true;  // until there is something to delete
  container->spec_ = options.spec;
  container->inputs_ = options.inputs;
  container->external_ = options.external;
  if (options.spec.linux_.seccomp.has_value()) {
    DAVIT_ASSIGN_OR_RETURN(const seccomp::Program program,
                           seccomp::Compile(*options.spec.linux_.seccomp));
    DAVIT_ASSIGN_OR_RETURN(container->seccomp_, sys::SealedMemfd("seccomp", program.bpf));
    container->external_[plan::kSeccompProgram] = container->seccomp_.get();
    container->inputs_.has_seccomp = true;
    container->inputs_.seccomp_flags = program.flags;
  }
  DAVIT_ASSIGN_OR_RETURN(plan::CompiledPlan compiled,
                         plan::CompileCreate(container->spec_, container->inputs_));
  container->warnings_ = std::move(compiled.warnings);
  DAVIT_ASSIGN_OR_RETURN(container->launch_, Begin(compiled, container->external_, Event::kCreated,
                                                   absl::Now() + options.timeout));
  container->deleted_ = false;
  return container;
}

absl::Status Container::Start() {
  if (started_ || status() != ContainerStatus::kCreated) {
    return absl::FailedPreconditionError("cannot start a container that is not created");
  }
  started_ = true;
  DAVIT_RETURN_IF_ERROR(launch_->Start());
  const absl::Status status = AwaitEvent(*launch_, Event::kRunning, absl::Now() + kKillTime);
  if (!status.ok() && !status_.has_value()) {
    (void)Wait(absl::Now() + kKillTime);
  }
  return status;
}

absl::Status Container::Kill(int signal) {
  if (status() == ContainerStatus::kStopped) {
    return absl::FailedPreconditionError("container not running");
  }
  return sys::KillPidfd(launch_->pidfd(), signal);
}

absl::StatusOr<int> Container::Wait(absl::Time deadline) {
  if (!status_.has_value()) {
    DAVIT_ASSIGN_OR_RETURN(status_, sys::WaitPidfd(launch_->pidfd(), deadline));
  }
  return *status_;
}

absl::Status Container::Delete(bool force) {
  if (deleted_) return absl::OkStatus();
  if (status() != ContainerStatus::kStopped) {
    if (!force)
      return absl::FailedPreconditionError("cannot delete a container that is not stopped");
    DAVIT_RETURN_IF_ERROR(sys::KillPidfd(launch_->pidfd(), SIGKILL));
    DAVIT_RETURN_IF_ERROR(Wait(absl::Now() + kKillTime).status());
  }
  launch_->TakeRootfsClone().reset();
  DAVIT_RETURN_IF_ERROR(UndoAll(*launch_));
  deleted_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Session>> Container::Exec(const spec::Process& process,
                                                         const stage::ExternalFds& external) {
  if (status() != ContainerStatus::kRunning) {
    return absl::FailedPreconditionError("container not running");
  }
  plan::ExecInputs inputs;
  inputs.container_id = inputs_.container_id;
  for (const spec::Namespace& ns : spec_.linux_.namespaces) {
    if (ns.type != NamespaceType::kPid && inputs_.inherited.count(ns.type) == 0) {
      inputs.join.insert(ns.type);
    }
  }
  if (inputs_.join_user_namespace) inputs.join.insert(NamespaceType::kUser);
  inputs.cgroups = inputs_.cgroups;
  inputs.exec_leaf = absl::StrCat("exec-", next_exec_++);
  inputs.features = inputs_.features;
  inputs.capability_ceiling = inputs_.capability_ceiling;
  inputs.oom_score_adj_floor = inputs_.oom_score_adj_floor;
  inputs.rlimit_ceiling = inputs_.rlimit_ceiling;
  inputs.has_seccomp = inputs_.has_seccomp;
  inputs.seccomp_flags = inputs_.seccomp_flags;
  inputs.session_keyring = inputs_.session_keyring;
  DAVIT_ASSIGN_OR_RETURN(plan::CompiledPlan compiled, plan::CompileExec(process, inputs));
  stage::ExternalFds fds = external;
  fds[plan::kTarget] = launch_->pidfd();
  fds[plan::kSeccompProgram] = seccomp_.get();
  std::unique_ptr<Session> session(new Session());
  session->warnings_ = std::move(compiled.warnings);
  DAVIT_ASSIGN_OR_RETURN(session->launch_,
                         Begin(compiled, fds, Event::kRunning, absl::Now() + kKillTime));
  return session;
}

ContainerStatus Container::status() {
  if (!status_.has_value()) {
    absl::StatusOr<int> status = sys::WaitPidfd(launch_->pidfd(), absl::InfinitePast());
    if (status.ok()) status_ = *status;
  }
  if (status_.has_value()) return ContainerStatus::kStopped;
  return started_ ? ContainerStatus::kRunning : ContainerStatus::kCreated;
}

}  // namespace davit::runtime
