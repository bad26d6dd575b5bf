#include "sandbox/exec_session.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "sandbox/container_outcome.h"

namespace davit::sandbox {
namespace {

// For the command to come to run; its own time is the caller's choice.
constexpr absl::Duration kStartTimeout = absl::Seconds(60);
// The supervisor keeps the time; past this much more it is not trusted to.
constexpr absl::Duration kOverdueSlack = absl::Seconds(10);
constexpr absl::Duration kCancelTimeout = absl::Seconds(10);
// Reads of one pipe before everything else on the loop gets its turn: a command that prints faster
// than it is read would keep the loop for ever. Together as much as a pipe can hold at most.
constexpr int kFairShare = 64;

absl::Status OverTime() {
  return absl::DeadlineExceededError(
      "exec: the command did not end in its time; all of its processes were killed");
}

absl::Status MakePipe(sys::UniqueFd* reader, sys::UniqueFd* writer) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return sys::ErrnoStatus(errno, "exec: make a pipe");
  reader->reset(fds[0]);
  writer->reset(fds[1]);
  // Only our end: the command must get a pipe that blocks.
  if (fcntl(reader->get(), F_SETFL, O_NONBLOCK) != 0) {
    return sys::ErrnoStatus(errno, "exec: make a pipe non-blocking");
  }
  return absl::OkStatus();
}

}  // namespace

ExecSession::ExecSession(IoLoop* loop, std::shared_ptr<SupervisorClient> client,
                         const Request& request, Done done)
    : loop_(loop),
      client_(std::move(client)),
      exec_id_(request.exec_id),
      limit_(request.output_limit),
      done_(std::move(done)) {
  out_.into = &result_.out;
  err_.into = &result_.err;
}

void ExecSession::Start(IoLoop* loop, std::shared_ptr<SupervisorClient> client,
                        const Request& request, Done done) {
  std::shared_ptr<ExecSession> session(
      new ExecSession(loop, std::move(client), request, std::move(done)));
  session->Send(request);
}

void ExecSession::Send(const Request& request) {
  const auto self = shared_from_this();
  sys::UniqueFd out_writer, err_writer;
  if (!request.tty) {
    absl::Status piped = MakePipe(&out_.fd, &out_writer);
    if (piped.ok()) piped = MakePipe(&err_.fd, &err_writer);
    if (!piped.ok()) return loop_->Post([self, piped] { self->Finish(piped); });
  }
  supervisor::v1::ToSupervisor message;
  supervisor::v1::Exec* exec = message.mutable_exec();
  exec->set_exec_id(request.exec_id);
  exec->set_container_id(request.container_id);
  exec->set_has_seccomp(request.seccomp_fd >= 0);
  exec->set_has_stdout(!request.tty);
  exec->set_has_stderr(!request.tty);
  exec->set_tty(request.tty);
  std::vector<int> fds = {request.plan_fd};
  if (request.seccomp_fd >= 0) fds.push_back(request.seccomp_fd);
  if (!request.tty) {
    fds.push_back(out_writer.get());
    fds.push_back(err_writer.get());
  }
  absl::Duration start_timeout = kStartTimeout;
  if (request.timeout != absl::InfiniteDuration()) {
    const int64_t ms = std::max<int64_t>(1, absl::ToInt64Milliseconds(request.timeout));
    exec->set_timeout_ms(ms);
    const absl::Duration overdue = absl::Milliseconds(ms) + kOverdueSlack;
    start_timeout = std::min(start_timeout, overdue);
    overdue_timer_ = loop_->After(overdue, [self] { self->OnOverdue(); });
  }
  client_->ExpectExec(exec_id_, [self](absl::StatusOr<supervisor::v1::ExecExited> exited) {
    self->OnExited(std::move(exited));
  });
  client_->Call(std::move(message), fds, start_timeout,
                [self](absl::StatusOr<SupervisorClient::Answer> answer) {
                  self->OnReply(std::move(answer));
                });
}

void ExecSession::OnReply(absl::StatusOr<SupervisorClient::Answer> answer) {
  if (done_ == nullptr) return;
  if (!answer.ok()) return Finish(answer.status());
  started_ = true;
  if (!answer->fds.empty()) {
    out_.fd = std::move(answer->fds[0]);
    fcntl(out_.fd.get(), F_SETFL, O_NONBLOCK);
  }
  BeginReading(&out_);
  BeginReading(&err_);
  FinishIfComplete();
}

void ExecSession::OnExited(absl::StatusOr<supervisor::v1::ExecExited> exited) {
  if (done_ == nullptr) return;
  if (!exited.ok()) return Finish(exited.status());
  if (exited->timed_out()) return Finish(OverTime());
  exited_ = true;
  result_.exit_code = OutcomeOf(exited->wait_status(), false, "").exit_code;
  // All that the command has written is in the pipes by now.
  Read(&out_);
  Read(&err_);
  FinishIfComplete();
  if (done_ == nullptr) return;
  linger_timer_ = loop_->After(kLinger, [self = shared_from_this()] {
    if (self->done_ != nullptr) self->Finish(absl::OkStatus());
  });
}

void ExecSession::OnOverdue() {
  overdue_timer_ = 0;
  if (done_ == nullptr) return;
  supervisor::v1::ToSupervisor cancel;
  cancel.mutable_cancel_exec()->set_exec_id(exec_id_);
  client_->Call(std::move(cancel), {}, kCancelTimeout,
                [](absl::StatusOr<SupervisorClient::Answer>) {});
  Finish(absl::DeadlineExceededError(
      "exec: the time of the command is over and the pod's supervisor does not report its end"));
}

void ExecSession::BeginReading(Stream* stream) {
  if (!stream->fd.ok()) return;
  auto watch =
      loop_->Watch(stream->fd.get(), EPOLLIN, [self = shared_from_this(), stream](uint32_t) {
        self->Read(stream);
        if (self->done_ != nullptr) self->FinishIfComplete();
      });
  if (!watch.ok()) return Finish(watch.status());
  stream->watch = *watch;
}

void ExecSession::Read(Stream* stream) {
  char buffer[16384];
  for (int i = 0; i < kFairShare && stream->fd.ok(); ++i) {
    const ssize_t n = read(stream->fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    // EIO is how the master of a pty says that nobody has the other end open any more.
    if (n <= 0) return CloseStream(stream);
    const size_t kept = result_.out.size() + result_.err.size();
    const size_t room = limit_ > kept ? limit_ - kept : 0;
    stream->into->append(buffer, std::min(static_cast<size_t>(n), room));
  }
}

void ExecSession::CloseStream(Stream* stream) {
  if (stream->watch != 0) loop_->Unwatch(std::exchange(stream->watch, 0));
  stream->fd.reset();
}

void ExecSession::FinishIfComplete() {
  if (done_ != nullptr && started_ && exited_ && !out_.fd.ok() && !err_.fd.ok()) {
    Finish(absl::OkStatus());
  }
}

void ExecSession::Finish(absl::Status status) {
  if (done_ == nullptr) return;
  const auto self = shared_from_this();  // timers and watches hold the other references
  const Done done = std::exchange(done_, nullptr);
  client_->ForgetExec(exec_id_);
  CloseStream(&out_);
  CloseStream(&err_);
  if (overdue_timer_ != 0) loop_->Cancel(std::exchange(overdue_timer_, 0));
  if (linger_timer_ != 0) loop_->Cancel(std::exchange(linger_timer_, 0));
  if (status.ok()) {
    done(std::move(result_));
  } else {
    done(std::move(status));
  }
}

}  // namespace davit::sandbox
