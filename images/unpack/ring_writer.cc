#include "images/unpack/ring_writer.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/sys/errno.h"

namespace davit::images::unpack {

absl::StatusOr<std::unique_ptr<RingWriter>> RingWriter::Create(uint64_t bytes) {
  sys::UniqueFd fd(memfd_create("davit-unpack-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.ok()) return sys::ErrnoStatus(errno, "create the unpack ring");
  if (ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) {
    return sys::ErrnoStatus(errno, "size the unpack ring");
  }
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (memory == MAP_FAILED) return sys::ErrnoStatus(errno, "map the unpack ring");
  std::unique_ptr<RingWriter> ring(
      new RingWriter(std::move(fd), static_cast<char*>(memory), bytes));
  // Our own mapping is there already; a helper that shrank the file would kill us with SIGBUS.
  constexpr int kSeals = F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_FUTURE_WRITE | F_SEAL_SEAL;
  if (fcntl(ring->fd(), F_ADD_SEALS, kSeals) != 0) {
    return sys::ErrnoStatus(errno, "seal the unpack ring");
  }
  return ring;
}

RingWriter::~RingWriter() { munmap(memory_, bytes_); }

size_t RingWriter::Put(absl::string_view data) {
  const size_t take = std::min<uint64_t>(data.size(), bytes_ - (produced_ - consumed_));
  const size_t at = produced_ % bytes_;
  const size_t first = std::min<uint64_t>(take, bytes_ - at);
  memcpy(memory_ + at, data.data(), first);
  memcpy(memory_, data.data() + first, take - first);
  produced_ += take;
  return take;
}

absl::Status RingWriter::SetConsumed(uint64_t consumed) {
  if (consumed < consumed_ || consumed > produced_) {
    return absl::InvalidArgumentError("it claims to have read bytes that it was not given");
  }
  consumed_ = consumed;
  return absl::OkStatus();
}

}  // namespace davit::images::unpack
