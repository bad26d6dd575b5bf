// Descriptors by their slots, from the helper that has opened them to the creator.

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

namespace raw = sys::raw;

namespace {

// In one message; the kernel takes 253 (SCM_MAX_FD).
constexpr uint32_t kBatch = 128;

struct Batch {
  int32_t slots[kBatch];
  uint32_t size = 0;
  iovec data;
  alignas(cmsghdr) char control[CMSG_SPACE(kBatch * sizeof(int))];
  msghdr message;

  void Prepare(uint32_t capacity) {
    data = {slots, capacity * sizeof(int32_t)};
    memset(&message, 0, sizeof(message));
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(capacity * sizeof(int));
  }
};

}  // namespace

int SendSlots(int socket, const int32_t* fds, const int32_t* known, uint32_t count) {
  Batch batch;
  memset(batch.control, 0, sizeof(batch.control));
  int numbers[kBatch];
  for (uint32_t i = 0; i <= count; ++i) {
    if (i < count && fds[i] >= 0 && fds[i] != known[i]) {
      batch.slots[batch.size] = static_cast<int32_t>(i);
      numbers[batch.size++] = fds[i];
    }
    if (batch.size == 0 || (batch.size < kBatch && i < count)) continue;
    batch.Prepare(batch.size);
    cmsghdr* header = CMSG_FIRSTHDR(&batch.message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(batch.size * sizeof(int));
    memcpy(CMSG_DATA(header), numbers, batch.size * sizeof(int));
    const long sent = raw::Call(SYS_sendmsg, socket, &batch.message, MSG_NOSIGNAL);
    if (sent < 0) return static_cast<int>(sent);
    batch.size = 0;
  }
  return 0;
}

int ReceiveSlots(int socket, int32_t* fds, uint32_t count) {
  for (;;) {
    Batch batch;
    batch.Prepare(kBatch);
    const long received =
        raw::Call(SYS_recvmsg, socket, &batch.message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (received == -EINTR) continue;
    if (received == -EAGAIN || received == 0) return 0;
    if (received < 0) return static_cast<int>(received);
    const uint32_t named = static_cast<uint32_t>(received) / sizeof(int32_t);
    const cmsghdr* header = CMSG_FIRSTHDR(&batch.message);
    const uint32_t came =
        header == nullptr || header->cmsg_type != SCM_RIGHTS
            ? 0
            : static_cast<uint32_t>((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    for (uint32_t i = 0; i < came; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
      const int32_t slot = i < named ? batch.slots[i] : -1;
      if (slot >= 0 && static_cast<uint32_t>(slot) < count && fds[slot] < 0) {
        fds[slot] = fd;
      } else {
        raw::Close(fd);
      }
    }
    // The table is full: what did not fit is gone.
    if (came < named) return -EMFILE;
  }
}

}  // namespace davit::runtime::stage
