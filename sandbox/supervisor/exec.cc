#include "sandbox/supervisor/exec.h"

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

using runtime::plan::Slot;
using supervisor::v1::Error;

// For the set-up; the command's own time is the caller's choice.
constexpr absl::Duration kStartTimeout = absl::Seconds(30);
constexpr absl::Duration kUndoPatience = absl::Seconds(2);

}  // namespace

Exec::Exec(const PodTools& tools, Observer observer)
    : tools_(tools),
      observer_(std::move(observer)),
      session_(new Session(tools.loop, tools.reaper, this)) {}

Exec::~Exec() {
  if (timer_ != 0) tools_.loop->Cancel(timer_);
}

void Exec::Start(const supervisor::v1::Exec& request, std::vector<sys::UniqueFd> fds,
                 const Container& container) {
  const absl::Status status = Begin(request, std::move(fds), container);
  if (status.ok()) return;
  Error error;
  SetError(status, &error);
  observer_.started(&error, 0, sys::UniqueFd());
  observer_.finished(nullptr);
}

absl::Status Exec::Begin(const supervisor::v1::Exec& request, std::vector<sys::UniqueFd> fds,
                         const Container& container) {
  const size_t expected = 1u + (request.has_seccomp() ? 1 : 0) + (request.has_stdin() ? 1 : 0) +
                          (request.has_stdout() ? 1 : 0) + (request.has_stderr() ? 1 : 0);
  if (fds.size() != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("exec: ", fds.size(), " descriptors came with it, not ", expected));
  }
  runtime::stage::ExternalFds external;
  external[Slot::kTarget] = container.pidfd();
  external[Slot::kPidNamespace] = container.pidfd();
  external[Slot::kPodMountNamespace] = tools_.pod->mount_namespace.get();
  external[Slot::kUserNamespace] = tools_.pod->user_namespace.get();
  size_t next = 1;
  if (request.has_seccomp()) external[Slot::kSeccompProgram] = fds[next++].get();
  sys::UniqueFd null;
  if (!request.tty()) {
    DAVIT_ASSIGN_OR_RETURN(null, sys::OpenAt(AT_FDCWD, "/dev/null", O_RDWR));
  }
  external[Slot::kStdin] = request.has_stdin() ? fds[next++].get() : null.get();
  external[Slot::kStdout] = request.has_stdout() ? fds[next++].get() : null.get();
  external[Slot::kStderr] = request.has_stderr() ? fds[next++].get() : null.get();
  sys::UniqueFd plan = std::move(fds[0]);
  fds.push_back(std::move(null));
  if (request.timeout_ms() > 0) {
    const absl::Duration timeout = absl::Milliseconds(request.timeout_ms());
    deadline_ = EventLoop::Now() + absl::ToInt64Nanoseconds(timeout);
    ArmTimer();
  }
  session_->Begin(std::move(plan), external, std::move(fds), kStartTimeout);
  return absl::OkStatus();
}

void Exec::ArmTimer() {
  timer_ = tools_.loop->After(absl::Nanoseconds(deadline_ - EventLoop::Now()), [this] {
    timer_ = 0;
    timed_out_ = true;
    Cancel();
  });
}

void Exec::Cancel() {
  if (session_ == nullptr) return;
  killed_ = true;
  session_->KillAll();
}

void Exec::OnRunning() {
  observer_.started(nullptr, session_->pid(), session_->launch()->TakeConsole());
}

void Exec::OnFailed(const Session::Failed& failed) {
  Error error;
  FillError(failed, &error);
  if (timed_out_) {
    error.set_code(static_cast<int>(absl::StatusCode::kDeadlineExceeded));
    error.set_message("exec: its time was over before the command ran");
  }
  killed_ = true;  // nothing it left behind may live on
  observer_.started(&error, 0, sys::UniqueFd());
  Finish();
}

void Exec::OnExited(int wait_status) {
  observer_.exited(wait_status, timed_out_);
  Finish();
}

void Exec::Finish() {
  if (timer_ != 0) tools_.loop->Cancel(std::exchange(timer_, 0));
  if (killed_) session_->KillAll();
  session_->Undo(killed_ ? kUndoPatience : absl::ZeroDuration(),
                 [this](const absl::Status& status) {
                   const bool left = !status.ok() && session_ != nullptr;
                   observer_.finished(left ? std::move(session_) : nullptr);
                 });
}

}  // namespace davit::sandbox
