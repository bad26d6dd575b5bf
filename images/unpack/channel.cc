#include "images/unpack/channel.h"

#include <sys/socket.h>

#include <cerrno>

#include "runtime/sys/errno.h"

namespace davit::images::unpack {

absl::Status SendMessage(int socket, const google::protobuf::MessageLite& message, Wait wait) {
  const std::string data = message.SerializeAsString();
  if (data.size() > kMaxMessage) return absl::InternalError("an unpack message is too long");
  const int flags = MSG_NOSIGNAL | (wait == Wait::kNoWait ? MSG_DONTWAIT : 0);
  for (;;) {
    if (send(socket, data.data(), data.size(), flags) >= 0) return absl::OkStatus();
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return absl::UnavailableError("the unpack socket is full");
    if (errno == EPIPE || errno == ECONNRESET) {
      return absl::OutOfRangeError("the other end of the unpack socket is gone");
    }
    return sys::ErrnoStatus(errno, "send on the unpack socket");
  }
}

absl::StatusOr<bool> ReceiveMessage(int socket, google::protobuf::MessageLite* message, Wait wait) {
  thread_local std::string buffer(kMaxMessage, '\0');
  for (;;) {
    // MSG_TRUNC: the real length of a packet that is longer than the buffer.
    const ssize_t n = recv(socket, buffer.data(), buffer.size(),
                           MSG_TRUNC | (wait == Wait::kNoWait ? MSG_DONTWAIT : 0));
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN) return false;
      if (errno != ECONNRESET) return sys::ErrnoStatus(errno, "receive on the unpack socket");
    }
    if (n <= 0) return absl::OutOfRangeError("the other end of the unpack socket is gone");
    if (static_cast<size_t>(n) > buffer.size() ||
        !message->ParseFromArray(buffer.data(), static_cast<int>(n))) {
      return absl::InvalidArgumentError("a packet on the unpack socket is no message");
    }
    return true;
  }
}

}  // namespace davit::images::unpack
