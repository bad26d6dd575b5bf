#ifndef DAVIT_RUNTIME_SYS_SOCKET_H_
#define DAVIT_RUNTIME_SYS_SOCKET_H_

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

// Unix SOCK_SEQPACKET sockets that carry one message, with descriptors (SCM_RIGHTS), per packet
// (man 7 unix). Thread-safe as far as the descriptor is.
namespace davit::sys {

// Largest message; larger things (plans, records) travel as sealed memfds.
inline constexpr size_t kMaxPacket = 64 * 1024;
inline constexpr size_t kMaxPacketFds = 64;

struct Packet {
  std::string data;
  std::vector<UniqueFd> fds;  // O_CLOEXEC
};

// A connected pair, both ends O_CLOEXEC and with buffers that hold many packets.
absl::StatusOr<std::pair<UniqueFd, UniqueFd>> SeqpacketPair();
// Listens at `path`, of any length; an old socket file there is replaced. Mode 0600.
absl::StatusOr<UniqueFd> SeqpacketListen(const std::string& path, int backlog);
// Never waits: Unavailable if nobody listens any more, or if the listener accepts nothing.
absl::StatusOr<UniqueFd> SeqpacketConnect(const std::string& path);

struct Peer {
  pid_t pid = 0;
  UniqueFd pidfd;
};
// The process at the other end: of a socket that has connected, the one that listens (SO_PEERCRED,
// man 7 unix). The pidfd is of that very process (SO_PEERPIDFD, kernel >= 6.5); before 6.5 it is of
// whoever has its number now. If it is gone, though others may still hold its socket: NotFound, or
// from 6.16 on a pidfd that says so.
absl::StatusOr<Peer> PeerOf(int socket);

// Sends one packet. Unavailable when the socket is non-blocking and full, or when the peer is gone;
// ResourceExhausted when it exceeds kMaxPacket or kMaxPacketFds. Never raises SIGPIPE.
absl::Status SendPacket(int socket, absl::string_view data, std::span<const int> fds);

// Receives one packet. Unavailable "would block" (EAGAIN) on an empty non-blocking socket,
// OutOfRange at the orderly end of the stream, DataLoss for a truncated packet.
absl::StatusOr<Packet> ReceivePacket(int socket);

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_SOCKET_H_
