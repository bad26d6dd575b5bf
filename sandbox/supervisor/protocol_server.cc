#include "sandbox/supervisor/protocol_server.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/socket.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::FromSupervisor;
using supervisor::v1::ToSupervisor;

constexpr size_t kMaxQueuedMessages = 4096;
constexpr size_t kMaxQueuedBytes = 4 * 1024 * 1024;
// Requests taken before other events get their turn.
constexpr int kFairShare = 16;
constexpr int kBacklog = 16;

bool IsRoot(int socket) {
  ucred peer;
  socklen_t size = sizeof peer;
  return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == 0;
}

bool SetNonblocking(int fd) {
  const int flags = fcntl(fd, F_GETFL);
  return flags >= 0 && fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ProtocolServer>> ProtocolServer::Start(EventLoop* loop,
                                                                      Handler* handler,
                                                                      const std::string& path,
                                                                      sys::UniqueFd connected) {
  std::unique_ptr<ProtocolServer> server(new ProtocolServer(loop, handler));
  DAVIT_ASSIGN_OR_RETURN(server->listener_, sys::SeqpacketListen(path, kBacklog));
  server->path_ = path;
  if (!SetNonblocking(server->listener_.get())) return sys::ErrnoStatus(errno, "fcntl");
  DAVIT_RETURN_IF_ERROR(server->WatchListener());
  if (connected.ok()) server->Adopt(std::move(connected));
  return server;
}

absl::StatusOr<std::unique_ptr<ProtocolServer>> ProtocolServer::Restore(
    EventLoop* loop, Handler* handler, const std::string& path,
    const upgrade::v1::ServerState& state, InheritedDescriptors* descriptors) {
  std::unique_ptr<ProtocolServer> server(new ProtocolServer(loop, handler));
  DAVIT_ASSIGN_OR_RETURN(server->listener_,
                         descriptors->TakeNeeded(state.listener(), "the listening socket"));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd socket, descriptors->Take(state.socket()));
  DAVIT_RETURN_IF_ERROR(server->WatchListener());
  server->path_ = path;
  server->connection_ = state.connection();
  if (!socket.ok()) return server;
  --server->connection_;  // it keeps its number
  server->Adopt(std::move(socket));
  server->greeted_ = state.greeted();
  return server;
}

upgrade::v1::ServerState ProtocolServer::Save(SavedDescriptors* descriptors) const {
  upgrade::v1::ServerState state;
  state.set_listener(descriptors->Add(listener_));
  state.set_socket(descriptors->Add(socket_));
  state.set_connection(connection_);
  state.set_greeted(greeted_);
  return state;
}

absl::Status ProtocolServer::WatchListener() {
  return loop_->Watch(listener_.get(), EPOLLIN, [this](uint32_t) { OnConnect(); });
}

ProtocolServer::~ProtocolServer() {
  loop_->Unwatch(listener_.get());
  if (socket_.ok()) loop_->Unwatch(socket_.get());
  if (!path_.empty()) unlink(path_.c_str());
}

void ProtocolServer::OnConnect() {
  sys::UniqueFd socket(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!socket.ok() || finishing_ || !IsRoot(socket.get())) return;
  // A restarted daemon must never be kept out by the connection of a dead or hung one.
  Drop();
  Adopt(std::move(socket));
}

void ProtocolServer::Adopt(sys::UniqueFd socket) {
  if (!SetNonblocking(socket.get())) return;
  const absl::Status watched =
      loop_->Watch(socket.get(), EPOLLIN, [this](uint32_t events) { OnEvents(events); });
  if (!watched.ok()) return;
  socket_ = std::move(socket);
  ++connection_;
  greeted_ = false;
}

void ProtocolServer::Drop() {
  if (!socket_.ok()) return;
  loop_->Unwatch(socket_.get());
  socket_.reset();
  queue_.clear();
  queued_bytes_ = 0;
  const bool finishing = finishing_;
  handler_->OnDisconnected(connection_);
  if (finishing && finished_) std::exchange(finished_, nullptr)();
}

void ProtocolServer::OnEvents(uint32_t events) {
  const ConnectionId connection = connection_;
  if ((events & EPOLLOUT) != 0) Flush();
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) == 0) return;
  for (int i = 0; i < kFairShare && socket_.ok() && connection == connection_; ++i) {
    auto packet = sys::ReceivePacket(socket_.get());
    if (absl::IsUnavailable(packet.status())) return;
    if (!packet.ok()) return Drop();
    if (!finishing_) OnPacket(packet->data, std::move(packet->fds));
  }
}

void ProtocolServer::OnPacket(const std::string& data, std::vector<sys::UniqueFd> fds) {
  ToSupervisor request;
  // A peer that sends no protocol is not worth keeping.
  if (!request.ParseFromString(data) || request.request_id() == 0) return Drop();
  if (request.has_hello()) greeted_ = true;
  if (!greeted_) {
    supervisor::v1::Reply reply;
    reply.set_request_id(request.request_id());
    reply.mutable_error()->set_code(static_cast<int>(absl::StatusCode::kFailedPrecondition));
    reply.mutable_error()->set_message("the first request of a connection is Hello");
    return Reply(connection_, reply);
  }
  handler_->OnRequest(connection_, request, std::move(fds));
}

void ProtocolServer::Reply(ConnectionId connection, const supervisor::v1::Reply& reply,
                           std::vector<sys::UniqueFd> fds) {
  if (connection != connection_ || !socket_.ok()) return;
  FromSupervisor message;
  *message.mutable_reply() = reply;
  Send(message, std::move(fds));
}

void ProtocolServer::SendEvent(const FromSupervisor& event) {
  if (socket_.ok() && greeted_) Send(event, {});
}

void ProtocolServer::Send(const FromSupervisor& message, std::vector<sys::UniqueFd> fds) {
  queue_.push_back({message.SerializeAsString(), std::move(fds)});
  queued_bytes_ += queue_.back().data.size();
  if (queue_.size() > kMaxQueuedMessages || queued_bytes_ > kMaxQueuedBytes) return HangUp();
  if (queue_.size() == 1) Flush();
}

// From the middle of whatever the handler does: the loop drops the connection when it comes round.
void ProtocolServer::HangUp() {
  shutdown(socket_.get(), SHUT_RDWR);
  queue_.clear();
  queued_bytes_ = 0;
}

void ProtocolServer::Flush() {
  while (!queue_.empty()) {
    const Outgoing& next = queue_.front();
    std::vector<int> fds;
    for (const sys::UniqueFd& fd : next.fds) fds.push_back(fd.get());
    const absl::Status sent = sys::SendPacket(socket_.get(), next.data, fds);
    if (absl::IsUnavailable(sent)) {
      // Full, or the peer is gone: then the loop reports a hang-up.
      loop_->SetEvents(socket_.get(), EPOLLIN | EPOLLOUT);
      return;
    }
    if (!sent.ok()) return HangUp();
    queued_bytes_ -= next.data.size();
    queue_.pop_front();
  }
  loop_->SetEvents(socket_.get(), EPOLLIN);
  if (finishing_ && finished_) std::exchange(finished_, nullptr)();
}

void ProtocolServer::FinishSending(std::function<void()> done) {
  finishing_ = true;
  if (!socket_.ok() || queue_.empty()) return done();
  finished_ = std::move(done);
}

}  // namespace davit::sandbox
