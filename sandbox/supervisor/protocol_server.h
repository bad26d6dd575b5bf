#ifndef DAVIT_SANDBOX_SUPERVISOR_PROTOCOL_SERVER_H_
#define DAVIT_SANDBOX_SUPERVISOR_PROTOCOL_SERVER_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/supervisor.pb.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/descriptors.h"
#include "sandbox/supervisor/event_loop.h"

namespace davit::sandbox {

// The supervisor's end of proto/supervisor.proto: one connection at a time, of which a newer one
// takes the place. Never blocks: what a slow peer does not take waits in a bounded queue, and a
// peer that lets it overflow is dropped. Belongs to the loop's thread.
class ProtocolServer {
 public:
  // Numbers connections, so that the answer to a request of an old one is not sent on a new one.
  using ConnectionId = uint64_t;

  class Handler {
   public:
    virtual ~Handler() = default;
    // `fds` are the packet's descriptors. Every request is answered once, by Reply.
    virtual void OnRequest(ConnectionId connection, const supervisor::v1::ToSupervisor& request,
                           std::vector<sys::UniqueFd> fds) = 0;
    virtual void OnDisconnected(ConnectionId connection) = 0;
  };

  // Takes the first connection, if there is one (`connected` may be -1), and listens at `path`
  // (mode 0600; root's processes only).
  static absl::StatusOr<std::unique_ptr<ProtocolServer>> Start(EventLoop* loop, Handler* handler,
                                                               const std::string& path,
                                                               sys::UniqueFd connected);
  // The server of a program that this one has taken the place of (proto/upgrade.proto), with its
  // connection; requests that it has not read are still in the socket.
  static absl::StatusOr<std::unique_ptr<ProtocolServer>> Restore(
      EventLoop* loop, Handler* handler, const std::string& path,
      const upgrade::v1::ServerState& state, InheritedDescriptors* descriptors);
  ~ProtocolServer();

  // Only while nothing waits to be sent.
  upgrade::v1::ServerState Save(SavedDescriptors* descriptors) const;
  bool everything_sent() const { return queue_.empty(); }

  // Dropped if that connection is no longer the current one.
  void Reply(ConnectionId connection, const supervisor::v1::Reply& reply,
             std::vector<sys::UniqueFd> fds = {});
  // To whoever is connected and has said Hello. Nobody: dropped, the next Hello tells the state.
  void SendEvent(const supervisor::v1::FromSupervisor& event);

  // Stops reading; calls back, perhaps from within, once everything was sent or the peer is gone.
  void FinishSending(std::function<void()> done);

 private:
  struct Outgoing {
    std::string data;
    std::vector<sys::UniqueFd> fds;
  };

  ProtocolServer(EventLoop* loop, Handler* handler) : loop_(loop), handler_(handler) {}
  absl::Status WatchListener();
  void OnConnect();
  void Adopt(sys::UniqueFd socket);
  void Drop();
  void OnEvents(uint32_t events);
  void Receive();
  void OnPacket(const std::string& data, std::vector<sys::UniqueFd> fds);
  void Send(const supervisor::v1::FromSupervisor& message, std::vector<sys::UniqueFd> fds);
  void Flush();
  void HangUp();

  EventLoop* const loop_;
  Handler* const handler_;
  std::string path_;
  sys::UniqueFd listener_;
  sys::UniqueFd socket_;
  ConnectionId connection_ = 0;  // of socket_
  bool greeted_ = false;
  bool finishing_ = false;
  std::deque<Outgoing> queue_;
  size_t queued_bytes_ = 0;
  std::function<void()> finished_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_PROTOCOL_SERVER_H_
