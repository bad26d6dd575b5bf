#include "runtime/sys/socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::sys {
namespace {

constexpr int kSoPeerPidfd = 77;  // SO_PEERPIDFD; Debian 12's headers are older

struct Address {
  sockaddr_un un{};
  UniqueFd directory;  // open for as long as the address is used
};

absl::StatusOr<Address> AddressOf(const std::string& path) {
  Address address;
  address.un.sun_family = AF_UNIX;
  std::string name = path;
  if (name.size() >= sizeof address.un.sun_path) {
    // The limit is one of the address, not of the file system: a path below an open directory is
    // always short enough (man 7 unix, man 5 proc).
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("socket ", path, ": the name is too long"));
    }
    const std::string directory = path.substr(0, slash + 1);
    address.directory.reset(open(directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (!address.directory.ok()) return ErrnoStatus(errno, absl::StrCat("open ", directory));
    name = absl::StrCat("/proc/self/fd/", address.directory.get(), path.substr(slash));
    if (name.size() >= sizeof address.un.sun_path) {
      return absl::InvalidArgumentError(absl::StrCat("socket ", path, ": the name is too long"));
    }
  }
  memcpy(address.un.sun_path, name.data(), name.size());
  return address;
}

}  // namespace

absl::StatusOr<std::pair<UniqueFd, UniqueFd>> SeqpacketPair() {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
    return ErrnoStatus(errno, "socketpair");
  }
  return std::make_pair(UniqueFd(fds[0]), UniqueFd(fds[1]));
}

absl::StatusOr<UniqueFd> SeqpacketListen(const std::string& path, int backlog) {
  DAVIT_ASSIGN_OR_RETURN(Address address, AddressOf(path));
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd.ok()) return ErrnoStatus(errno, "socket");
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return ErrnoStatus(errno, absl::StrCat("remove old socket ", path));
  }
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address.un), sizeof address.un) != 0) {
    return ErrnoStatus(errno, absl::StrCat("bind ", path));
  }
  if (chmod(path.c_str(), 0600) != 0) return ErrnoStatus(errno, absl::StrCat("chmod ", path));
  if (listen(fd.get(), backlog) != 0) return ErrnoStatus(errno, absl::StrCat("listen ", path));
  return fd;
}

absl::StatusOr<UniqueFd> SeqpacketConnect(const std::string& path) {
  DAVIT_ASSIGN_OR_RETURN(Address address, AddressOf(path));
  // Non-blocking for now: a listener that hangs lets its backlog fill up, and the next connection
  // would wait for it for ever.
  UniqueFd fd(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return ErrnoStatus(errno, "socket");
  int result;
  do {
    result = connect(fd.get(), reinterpret_cast<sockaddr*>(&address.un), sizeof address.un);
  } while (result != 0 && errno == EINTR);
  if (result != 0) return ErrnoStatus(errno, absl::StrCat("connect ", path));
  if (fcntl(fd.get(), F_SETFL, 0) != 0) return ErrnoStatus(errno, absl::StrCat("connect ", path));
  return fd;
}

absl::Status SendPacket(int socket, absl::string_view data, std::span<const int> fds) {
  if (data.size() > kMaxPacket || fds.size() > kMaxPacketFds) {
    return absl::ResourceExhaustedError(
        absl::StrCat("send: a packet of ", data.size(), " bytes and ", fds.size(),
                     " descriptors exceeds ", kMaxPacket, " bytes or ", kMaxPacketFds));
  }
  iovec iov{const_cast<char*>(data.data()), data.size()};
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxPacketFds)];
  if (!fds.empty()) {
    memset(control, 0, sizeof control);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    memcpy(CMSG_DATA(header), fds.data(), sizeof(int) * fds.size());
  }
  for (;;) {
    if (sendmsg(socket, &message, MSG_NOSIGNAL) >= 0) return absl::OkStatus();
    if (errno != EINTR) return ErrnoStatus(errno, "send packet");
  }
}

absl::StatusOr<Peer> PeerOf(int socket) {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return ErrnoStatus(errno, "ask who is at the other end of a socket");
  }
  int pidfd = -1;
  size = sizeof pidfd;
  if (getsockopt(socket, SOL_SOCKET, kSoPeerPidfd, &pidfd, &size) != 0) {
    if (errno == ENOPROTOOPT) {
      pidfd = static_cast<int>(syscall(SYS_pidfd_open, credentials.pid, 0u));
    } else if (errno == EINVAL) {
      errno = ESRCH;  // 6.5 to 6.15 say this of a process that has been reaped
    }
  }
  if (pidfd < 0) {
    if (errno != ESRCH) return ErrnoStatus(errno, "open who is at the other end of a socket");
    return absl::NotFoundError(
        absl::StrCat("process ", credentials.pid, " at the other end of a socket is gone"));
  }
  return Peer{credentials.pid, UniqueFd(pidfd)};
}

absl::StatusOr<Packet> ReceivePacket(int socket) {
  // Its size first: a buffer for the largest would dirty memory in a process that there is one of
  // for each pod.
  ssize_t n;
  do {
    n = recv(socket, nullptr, 0, MSG_PEEK | MSG_TRUNC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoStatus(errno, "receive packet");
  Packet packet;
  packet.data.resize(std::min(static_cast<size_t>(n), kMaxPacket));
  iovec iov{packet.data.data(), packet.data.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxPacketFds)];
  msghdr message{};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  do {
    n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoStatus(errno, "receive packet");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
      packet.fds.emplace_back(fd);
    }
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::DataLossError(
        "receive packet: truncated; the peer sent more than the protocol allows");
  }
  if (n == 0) return absl::OutOfRangeError("receive packet: the peer closed the connection");
  packet.data.resize(static_cast<size_t>(n));
  return packet;
}

}  // namespace davit::sys
