#ifndef DAVIT_IMAGES_UNPACK_RING_WRITER_H_
#define DAVIT_IMAGES_UNPACK_RING_WRITER_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images::unpack {

// The daemon's end of the ring of compressed bytes: memory shared with the helper, which it can
// neither write nor shrink (sealed; kernel >= 5.1 for F_SEAL_FUTURE_WRITE). Only bookkeeping: the
// owner sends the messages. Not thread-safe.
class RingWriter {
 public:
  static absl::StatusOr<std::unique_ptr<RingWriter>> Create(uint64_t bytes);
  ~RingWriter();
  RingWriter(const RingWriter&) = delete;
  RingWriter& operator=(const RingWriter&) = delete;

  // To be handed to the helper.
  int fd() const { return fd_.get(); }

  // Copies as much as there is room for and returns how much that was.
  size_t Put(absl::string_view data);

  // Takes the helper's word for how far it has read. InvalidArgument if that cannot be.
  absl::Status SetConsumed(uint64_t consumed);

  uint64_t produced() const { return produced_; }
  uint64_t consumed() const { return consumed_; }
  bool full() const { return produced_ - consumed_ == bytes_; }

 private:
  RingWriter(sys::UniqueFd fd, char* memory, uint64_t bytes)
      : fd_(std::move(fd)), memory_(memory), bytes_(bytes) {}

  const sys::UniqueFd fd_;
  char* const memory_;
  const uint64_t bytes_;
  uint64_t produced_ = 0;
  uint64_t consumed_ = 0;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_RING_WRITER_H_
