#include "images/unpack/ring_reader.h"

#include <sys/mman.h>

#include <cerrno>

#include "images/unpack/channel.h"
#include "proto/unpack.pb.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

// Room is given back in pieces of this size while the writer is ahead, to save messages.
constexpr uint64_t kAcknowledgeBytes = 256 * 1024;

}  // namespace

absl::StatusOr<std::unique_ptr<RingReader>> RingReader::Map(int socket, int ring_fd,
                                                            uint64_t ring_bytes) {
  if (ring_bytes == 0 || ring_bytes % 4096 != 0 || ring_bytes > (1u << 30)) {
    return absl::InvalidArgumentError("the ring's size is not a number of pages");
  }
  void* const place = mmap(nullptr, 2 * ring_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (place == MAP_FAILED) return sys::ErrnoStatus(errno, "reserve memory for the ring");
  std::unique_ptr<RingReader> reader(
      new RingReader(socket, static_cast<const char*>(place), ring_bytes));
  for (int half = 0; half < 2; ++half) {
    void* const at = static_cast<char*>(place) + half * ring_bytes;
    if (mmap(at, ring_bytes, PROT_READ, MAP_SHARED | MAP_FIXED, ring_fd, 0) == MAP_FAILED) {
      return sys::ErrnoStatus(errno, "map the ring");
    }
  }
  return reader;
}

RingReader::~RingReader() { munmap(const_cast<char*>(memory_), 2 * ring_bytes_); }

absl::StatusOr<bool> RingReader::Receive(bool wait) {
  ::davit::unpack::v1::ToUnpacker message;
  DAVIT_ASSIGN_OR_RETURN(const bool received,
                         ReceiveMessage(socket_, &message, wait ? Wait::kBlock : Wait::kNoWait));
  if (!received) return false;
  uint64_t produced = produced_;
  if (message.has_data()) produced = message.data().produced();
  if (message.has_end()) {
    produced = message.end().produced();
    ended_ = true;
  }
  if (produced < produced_ || produced - consumed_ > ring_bytes_) {
    return absl::InternalError("the daemon's position in the ring makes no sense");
  }
  produced_ = produced;
  return true;
}

absl::StatusOr<bool> RingReader::Ready() {
  for (bool more = true; more && !ended_;) {
    DAVIT_ASSIGN_OR_RETURN(more, Receive(/*wait=*/false));
  }
  return ended_ || produced_ != consumed_;
}

absl::StatusOr<absl::string_view> RingReader::Next() {
  DAVIT_ASSIGN_OR_RETURN(bool ready, Ready());
  if (!ready) DAVIT_RETURN_IF_ERROR(Acknowledge());  // nothing may be held back while we wait
  while (!ready) {
    DAVIT_ASSIGN_OR_RETURN(ready, Receive(/*wait=*/true));
    ready = ended_ || produced_ != consumed_;
  }
  return absl::string_view(memory_ + consumed_ % ring_bytes_, produced_ - consumed_);
}

absl::Status RingReader::Release(uint64_t bytes) {
  consumed_ += bytes;
  if (consumed_ - acknowledged_ < kAcknowledgeBytes) return absl::OkStatus();
  return Acknowledge();
}

absl::Status RingReader::Acknowledge() {
  if (acknowledged_ == consumed_) return absl::OkStatus();
  ::davit::unpack::v1::FromUnpacker message;
  message.mutable_consumed()->set_consumed(consumed_);
  DAVIT_RETURN_IF_ERROR(SendMessage(socket_, message, Wait::kBlock));
  acknowledged_ = consumed_;
  return absl::OkStatus();
}

}  // namespace davit::images::unpack
