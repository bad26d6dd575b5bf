#include "sandbox/supervisor/session.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/spawn.h"
#include "runtime/sys/utf8.h"
#include "sandbox/supervisor/cgroup_watch.h"

namespace davit::sandbox {

using runtime::stage::Launch;

namespace {

// Far below what a packet holds, and more than a sentence with two paths needs.
constexpr size_t kMaxMessage = 16 * 1024;
// How often an end is looked for that nothing tells of.
constexpr absl::Duration kLookAgain = absl::Milliseconds(20);
constexpr absl::Duration kFirstUndoDelay = absl::Milliseconds(1);
constexpr absl::Duration kLongestUndoDelay = absl::Milliseconds(50);

std::string DescribeEnd(int wait_status) {
  if (WIFSIGNALED(wait_status)) return absl::StrCat("was killed by signal ", WTERMSIG(wait_status));
  return absl::StrCat("exited with ", WEXITSTATUS(wait_status));
}

}  // namespace

std::string MessageOf(const absl::Status& status) {
  return std::string(sys::TruncateUtf8(sys::ValidUtf8(status.message()), kMaxMessage));
}

void FillError(const Session::Failed& failed, supervisor::v1::Error* error) {
  error->set_code(static_cast<int>(failed.status.code()));
  error->set_message(MessageOf(failed.status));
  error->set_operation(sys::ValidUtf8(failed.operation));
  error->set_error_number(failed.error_number);
}

Session::~Session() {
  if (timer_ != 0) loop_->Cancel(timer_);
  if (undo_timer_ != 0) loop_->Cancel(undo_timer_);
  if (look_timer_ != 0) loop_->Cancel(look_timer_);
  StopReport();
  if (helper_fd_ >= 0) loop_->Unwatch(helper_fd_);
  if (helper_ != 0) reaper_->LeftIsReaped(helper_);
  if (pid_ != 0) reaper_->Forget(pid_);
}

void Session::Begin(sys::UniqueFd plan, const runtime::stage::ExternalFds& external,
                    std::vector<sys::UniqueFd> held, absl::Duration timeout) {
  plan_ = std::move(plan);
  held_ = std::move(held);
  timeout_ = timeout;
  phase_ = Phase::kPreparing;
  timer_ = loop_->After(timeout, [this] {
    timer_ = 0;
    OnTimeout();
  });
  if (absl::Status status = BeginOrError(external); !status.ok()) {
    FailWithOperation(std::move(status));
  }
}

absl::Status Session::BeginOrError(const runtime::stage::ExternalFds& external) {
  DAVIT_ASSIGN_OR_RETURN(facts_, ReadPlanFacts(plan_.get()));
  DAVIT_ASSIGN_OR_RETURN(launch_, Launch::Open(plan_.get(), external));
  DAVIT_RETURN_IF_ERROR(launch_->Prepare());
  if (launch_->helper_pidfd() < 0) return CloneAndWatch();
  // Somebody's file system is being looked at, which may take for ever.
  helper_fd_ = launch_->helper_pidfd();
  helper_ = PidOfPidfd(helper_fd_);
  reaper_->Leave(helper_);
  const absl::Status watched = loop_->Watch(helper_fd_, EPOLLIN, [this](uint32_t) { OnHelper(); });
  if (!watched.ok()) LookForEnd();
  return watched;
}

// The event loop takes no more descriptors: what was started is killed, and its end seen by
// looking.
void Session::LookForEnd() {
  look_timer_ = loop_->After(kLookAgain, [this] {
    look_timer_ = 0;
    if (helper_fd_ >= 0) {
      pollfd end{helper_fd_, POLLIN, 0};
      if (poll(&end, 1, 0) == 1) return OnHelper();
      return LookForEnd();
    }
    const std::optional<int> status = reaper_->ReapLeft(pid_);
    if (!status.has_value()) return LookForEnd();
    OnReaped(*status);
  });
}

void Session::OnHelper() {
  loop_->Unwatch(std::exchange(helper_fd_, -1));
  absl::Status status = launch_->FinishPrepare();
  reaper_->LeftIsReaped(std::exchange(helper_, 0));
  if (phase_ == Phase::kFailing) {
    // Given up on: the launch says which path it was waiting for.
    if (timed_out_ && !status.ok()) {
      failed_.status = absl::DeadlineExceededError(status.message());
      failed_.operation = launch_->failure().operation;
      failed_.object = launch_->failure().object;
    }
    return ReportFailure();
  }
  if (status.ok()) status = CloneAndWatch();
  if (!status.ok()) FailWithOperation(std::move(status));
}

absl::Status Session::CloneAndWatch() {
  const absl::Status cloned = launch_->Clone();
  held_.clear();
  DAVIT_RETURN_IF_ERROR(cloned);
  pid_ = launch_->pid();
  pidfd_ = launch_->TakePidfd();
  phase_ = Phase::kCloned;
  const absl::Status awaited =
      reaper_->Await(pid_, pidfd_.get(), [this](int wait_status) { OnReaped(wait_status); });
  if (!awaited.ok()) {
    reaper_->Leave(pid_);
    LookForEnd();
    return awaited;
  }
  report_fd_ = launch_->report_fd();
  // One shot: Read closes the descriptor with its last message, and epoll would go on reporting it
  // if another process, not exec'ed yet, still has a copy.
  return loop_->Watch(report_fd_, EPOLLIN | EPOLLONESHOT, [this](uint32_t) { OnReport(); });
}

void Session::StopReport() {
  if (report_fd_ >= 0) loop_->Unwatch(std::exchange(report_fd_, -1));
}

void Session::OnReport() {
  while (report_fd_ >= 0) {
    const runtime::stage::Event event = launch_->Read();
    if (launch_->report_fd() < 0) StopReport();
    switch (event) {
      case runtime::stage::Event::kNothing:
        if (report_fd_ >= 0) loop_->SetEvents(report_fd_, EPOLLIN | EPOLLONESHOT);
        return;
      case runtime::stage::Event::kCreated:
        if (phase_ != Phase::kCloned) break;
        phase_ = Phase::kCreated;
        if (timer_ != 0) loop_->Cancel(std::exchange(timer_, 0));
        listener_->OnCreated();
        break;
      case runtime::stage::Event::kRunning:
        StopReport();
        if (phase_ == Phase::kFailing) return;
        phase_ = Phase::kRunning;
        if (timer_ != 0) loop_->Cancel(std::exchange(timer_, 0));
        listener_->OnRunning();
        return;
      case runtime::stage::Event::kFailed:
        StopReport();
        if (phase_ != Phase::kFailing) FailWithOperation(launch_->failure().ToStatus());
        return;
    }
  }
}

void Session::OnTimeout() {
  timed_out_ = true;
  Fail(absl::DeadlineExceededError(
      absl::StrCat("it was not set up within ", absl::ToInt64Milliseconds(timeout_), " ms")));
}

void Session::OnReaped(int wait_status) {
  OnReport();  // what it said before it ended
  StopReport();
  pid_ = 0;
  if (timer_ != 0) loop_->Cancel(std::exchange(timer_, 0));
  failed_.wait_status = wait_status;
  switch (phase_) {
    case Phase::kFailing:
      return ReportFailure();
    case Phase::kCreated:
    case Phase::kRunning:
      phase_ = Phase::kEnded;
      return listener_->OnExited(wait_status);
    default:
      failed_.status = absl::InternalError(
          absl::StrCat("the process ", DescribeEnd(wait_status), " while it was being set up"));
      return ReportFailure();
  }
}

void Session::FailWithOperation(absl::Status status) {
  if (launch_ != nullptr && launch_->failure().error_number != 0) {
    failed_.operation = launch_->failure().operation;
    failed_.object = launch_->failure().object;
    failed_.error_number = launch_->failure().error_number;
  }
  Fail(std::move(status));
}

void Session::Fail(absl::Status status) {
  if (phase_ == Phase::kFailing || phase_ == Phase::kEnded) return;
  phase_ = Phase::kFailing;
  failed_.status = std::move(status);
  held_.clear();
  if (timer_ != 0) loop_->Cancel(std::exchange(timer_, 0));
  KillAll();
  if (pid_ != 0 || helper_fd_ >= 0) return;  // told once it is gone
  // Not from within Begin.
  timer_ = loop_->After(absl::ZeroDuration(), [this] {
    timer_ = 0;
    ReportFailure();
  });
}

void Session::ReportFailure() {
  phase_ = Phase::kEnded;
  listener_->OnFailed(failed_);
}

absl::Status Session::Start() {
  if (phase_ != Phase::kCreated) {
    return absl::FailedPreconditionError("it does not wait to be started");
  }
  return launch_->Start();
}

absl::Status Session::Signal(int signal) {
  if (pid_ == 0) return absl::OkStatus();
  return sys::KillPidfd(pidfd_.get(), signal);
}

void Session::KillAll() {
  if (phase_ == Phase::kPreparing && helper_fd_ >= 0) {
    return Fail(absl::CancelledError("it was killed while it was being set up"));
  }
  if (helper_fd_ >= 0) sys::KillPidfd(helper_fd_, SIGKILL).IgnoreError();
  // Only a group that the plan makes is this session's alone.
  if (!facts_.cgroups.empty() && cgroup_fd() >= 0) KillCgroup(cgroup_fd()).IgnoreError();
  Signal(SIGKILL).IgnoreError();
}

void Session::Undo(absl::Duration patience, std::function<void(absl::Status)> done) {
  undo_deadline_ = absl::Now() + patience;
  undo_delay_ = kFirstUndoDelay;
  undo_done_ = std::move(done);
  TryUndo();
}

void Session::TryUndo() {
  absl::Status status = launch_ == nullptr ? absl::OkStatus() : launch_->Undo();
  if (absl::IsUnavailable(status) && absl::Now() < undo_deadline_) {
    undo_timer_ = loop_->After(undo_delay_, [this] {
      undo_timer_ = 0;
      TryUndo();
    });
    undo_delay_ = std::min(2 * undo_delay_, kLongestUndoDelay);
    return;
  }
  std::exchange(undo_done_, nullptr)(std::move(status));
}

}  // namespace davit::sandbox
