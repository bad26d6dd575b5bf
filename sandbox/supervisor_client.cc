#include "sandbox/supervisor_client.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/socket.h"
#include "sandbox/notification.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::FromSupervisor;
using supervisor::v1::Reply;
using supervisor::v1::ToSupervisor;

// Packets taken before everything else on the loop gets its turn.
constexpr int kFairShare = 64;

absl::Status ConnectionGone() {
  return absl::UnavailableError("the connection to the pod's supervisor is down");
}

absl::Status Violation(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("the pod's supervisor sent ", what));
}

// The result that a request is answered with when it succeeds.
Reply::ResultCase ResultOf(ToSupervisor::RequestCase request) {
  switch (request) {
    case ToSupervisor::kHello:
      return Reply::kHello;
    case ToSupervisor::kCreateContainer:
      return Reply::kCreateContainer;
    case ToSupervisor::kStartContainer:
      return Reply::kStartContainer;
    case ToSupervisor::kExec:
      return Reply::kExec;
    case ToSupervisor::kUpgrade:
      return Reply::kUpgrade;
    default:
      return Reply::RESULT_NOT_SET;
  }
}

// davitd reads from it on its loop: a file of another kind could block there.
bool IsTerminalMaster(int fd) {
  unsigned int number;
  return ioctl(fd, TIOCGPTN, &number) == 0;
}

// Anything else is refused with EBADF, whatever has become of the process (man 2
// pidfd_send_signal).
bool IsPidfd(int fd) {
  return syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0u) == 0 || errno != EBADF;
}

// How many descriptors come with a reply that is no error, and what each of them is.
absl::Status CheckDescriptors(bool wants_terminal, const Reply& reply,
                              const std::vector<sys::UniqueFd>& fds) {
  size_t expected = wants_terminal ? 1 : 0;
  bool (*is_right)(int) = &IsTerminalMaster;
  absl::string_view what = "a descriptor that is no terminal";
  if (reply.has_hello() || reply.has_create_container()) {
    // A supervisor may do without the latter: an older one, or one without descriptors to spare.
    expected = reply.has_hello() ? static_cast<size_t>(reply.hello().pidfd_of_size())
                                 : std::min<size_t>(fds.size(), 1);
    is_right = &IsPidfd;
    what = "a descriptor that is no pidfd";
  }
  if (fds.size() != expected) {
    return Violation(
        absl::StrCat("a reply with ", fds.size(), " descriptors instead of ", expected));
  }
  for (const sys::UniqueFd& fd : fds) {
    if (!is_right(fd.get())) return Violation(what);
  }
  return absl::OkStatus();
}

// Nothing has been promised to whoever finds less in a reply than the protocol says.
absl::Status CheckReply(ToSupervisor::RequestCase request, bool wants_terminal, const Reply& reply,
                        const std::vector<sys::UniqueFd>& fds) {
  const bool failed = reply.has_error();
  const Reply::ResultCase result = failed ? Reply::RESULT_NOT_SET : ResultOf(request);
  if (reply.result_case() != result) return Violation("a reply of another kind than was asked for");
  if (!failed) return CheckDescriptors(wants_terminal, reply, fds);
  if (!fds.empty()) return Violation("an error with descriptors");
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrorStatus(const supervisor::v1::Error& error) {
  const auto code = static_cast<absl::StatusCode>(error.code());
  // A supervisor that reports a failure without a code has still failed.
  return absl::Status(code == absl::StatusCode::kOk ? absl::StatusCode::kInternal : code,
                      error.message());
}

SupervisorClient::SupervisorClient(IoLoop* loop, sys::UniqueFd socket, Listener listener)
    : loop_(loop), socket_(std::move(socket)), listener_(std::move(listener)) {}

SupervisorClient::~SupervisorClient() = default;

absl::StatusOr<std::shared_ptr<SupervisorClient>> SupervisorClient::Start(IoLoop* loop,
                                                                          sys::UniqueFd socket,
                                                                          Listener listener) {
  // The loop must not sleep in a send or a receive, whatever the supervisor does.
  const int flags = fcntl(socket.get(), F_GETFL);
  if (flags < 0 || fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return sys::ErrnoStatus(errno, "make the supervisor's socket non-blocking");
  }
  std::shared_ptr<SupervisorClient> client(
      new SupervisorClient(loop, std::move(socket), std::move(listener)));
  // The watch holds the client: it lives until its connection ends.
  loop->Post([client] {
    auto watch = client->loop_->Watch(client->socket_.get(), EPOLLIN,
                                      [client](uint32_t) { client->OnReadable(); });
    if (!watch.ok()) return client->Fail(watch.status(), true);
    client->watch_ = *watch;
    if (!client->connected()) client->Fail(ConnectionGone(), false);  // closed before it began
  });
  return client;
}

bool SupervisorClient::connected() const {
  sys::MutexLock lock(&mutex_);
  return connected_;
}

void SupervisorClient::Call(ToSupervisor request, std::span<const int> fds, absl::Duration timeout,
                            Callback callback) {
  uint64_t id = 0;
  {
    sys::MutexLock lock(&mutex_);
    if (connected_) {
      id = next_id_++;
      Pending& pending = pending_[id];
      pending.request = request.request_case();
      pending.wants_terminal = request.exec().tty();
      pending.callback = callback;
      pending.timer =
          loop_->After(timeout, [self = shared_from_this(), id] { self->OnTimeout(id); });
    }
  }
  if (id == 0) {
    loop_->Post([callback = std::move(callback)] { callback(ConnectionGone()); });
    return;
  }
  request.set_request_id(id);
  const absl::Status sent = sys::SendPacket(socket_.get(), request.SerializeAsString(), fds);
  if (sent.ok()) return;
  Callback mine;
  {
    sys::MutexLock lock(&mutex_);
    const auto it = pending_.find(id);
    if (it == pending_.end()) return;  // the connection failed meanwhile and has called back
    mine = std::move(it->second.callback);
    loop_->Cancel(it->second.timer);
    pending_.erase(it);
  }
  loop_->Post([mine = std::move(mine), sent] {
    mine(sys::Annotate(sent, "send a request to the pod's supervisor"));
  });
}

absl::StatusOr<SupervisorClient::Answer> SupervisorClient::CallAndWait(ToSupervisor request,
                                                                       std::span<const int> fds,
                                                                       absl::Duration timeout) {
  // Shared with the callback: Notify may still be running in it when the wait has ended.
  struct Slot {
    Notification done;
    std::optional<absl::StatusOr<Answer>> answer;
  };
  auto slot = std::make_shared<Slot>();
  Call(std::move(request), fds, timeout, [slot](absl::StatusOr<Answer> answer) {
    slot->answer.emplace(std::move(answer));
    slot->done.Notify();
  });
  slot->done.WaitForNotification();
  return *std::move(slot->answer);
}

void SupervisorClient::ExpectExec(const std::string& exec_id, ExecCallback callback) {
  sys::MutexLock lock(&mutex_);
  // On a dead connection the Exec call that follows fails, and its caller forgets this.
  if (connected_) execs_[exec_id] = std::move(callback);
}

void SupervisorClient::ForgetExec(const std::string& exec_id) {
  ExecCallback dropped;
  sys::MutexLock lock(&mutex_);
  const auto it = execs_.find(exec_id);
  if (it == execs_.end()) return;
  dropped = std::move(it->second);
  execs_.erase(it);
}

void SupervisorClient::Close() {
  {
    sys::MutexLock lock(&mutex_);
    if (!connected_) return;
    connected_ = false;
  }
  // The supervisor sees the end at once, even if the loop is busy.
  shutdown(socket_.get(), SHUT_RDWR);
  loop_->Post([self = shared_from_this()] { self->Fail(ConnectionGone(), false); });
}

void SupervisorClient::OnReadable() {
  for (int i = 0; i < kFairShare; ++i) {
    if (!connected()) return;
    auto packet = sys::ReceivePacket(socket_.get());
    if (!packet.ok()) {
      if (absl::IsUnavailable(packet.status())) return;  // nothing more for now
      return Fail(packet.status(), true);
    }
    FromSupervisor message;
    if (!message.ParseFromString(packet->data)) return Fail(Violation("what is no message"), true);
    const absl::Status taken = OnMessage(std::move(message), std::move(packet->fds));
    if (!taken.ok()) return Fail(taken, true);
  }
}

absl::Status SupervisorClient::OnMessage(FromSupervisor message, std::vector<sys::UniqueFd> fds) {
  if (message.message_case() == FromSupervisor::kReply) {
    return OnReply(std::move(*message.mutable_reply()), std::move(fds));
  }
  if (!fds.empty()) return Violation("an event with descriptors");
  switch (message.message_case()) {
    case FromSupervisor::kExecExited: {
      ExecCallback callback;
      {
        sys::MutexLock lock(&mutex_);
        const auto it = execs_.find(message.exec_exited().exec_id());
        if (it == execs_.end()) return absl::OkStatus();
        callback = std::move(it->second);
        execs_.erase(it);
      }
      callback(std::move(*message.mutable_exec_exited()));
      return absl::OkStatus();
    }
    case FromSupervisor::MESSAGE_NOT_SET:
      return absl::OkStatus();  // an event that a newer supervisor knows
    default:
      if (listener_.event) listener_.event(message);
      return absl::OkStatus();
  }
}

absl::Status SupervisorClient::OnReply(Reply reply, std::vector<sys::UniqueFd> fds) {
  Callback callback;
  {
    sys::MutexLock lock(&mutex_);
    if (reply.request_id() == 0 || reply.request_id() >= next_id_) {
      return Violation("a reply to what it was never asked");
    }
    const auto it = pending_.find(reply.request_id());
    if (it == pending_.end()) return absl::OkStatus();  // its caller has given up
    DAVIT_RETURN_IF_ERROR(CheckReply(it->second.request, it->second.wants_terminal, reply, fds));
    callback = std::move(it->second.callback);
    loop_->Cancel(it->second.timer);
    pending_.erase(it);
  }
  if (reply.has_error()) {
    callback(ErrorStatus(reply.error()));
  } else {
    callback(Answer{std::move(reply), std::move(fds)});
  }
  return absl::OkStatus();
}

void SupervisorClient::OnTimeout(uint64_t request_id) {
  Callback callback;
  {
    sys::MutexLock lock(&mutex_);
    const auto it = pending_.find(request_id);
    if (it == pending_.end()) return;
    callback = std::move(it->second.callback);
    pending_.erase(it);
  }
  callback(absl::DeadlineExceededError("the pod's supervisor did not answer in time"));
}

void SupervisorClient::Fail(const absl::Status& why, bool tell) {
  std::map<uint64_t, Pending> pending;
  std::map<std::string, ExecCallback> execs;
  {
    sys::MutexLock lock(&mutex_);
    connected_ = false;
    pending.swap(pending_);
    execs.swap(execs_);
  }
  // The watch holds a reference; `this` must last until the end of the function.
  const std::shared_ptr<SupervisorClient> self = shared_from_this();
  loop_->Unwatch(std::exchange(watch_, 0));
  Listener listener = std::exchange(listener_, {});
  // The supervisor sees the end now, not when the last reference goes.
  shutdown(socket_.get(), SHUT_RDWR);
  for (auto& [id, call] : pending) {
    loop_->Cancel(call.timer);
    call.callback(ConnectionGone());
  }
  for (auto& [id, callback] : execs) callback(ConnectionGone());
  if (tell && listener.closed) listener.closed(why);
}

}  // namespace davit::sandbox
