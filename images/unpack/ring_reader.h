#ifndef DAVIT_IMAGES_UNPACK_RING_READER_H_
#define DAVIT_IMAGES_UNPACK_RING_READER_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/unpack/pipeline.h"

namespace davit::images::unpack {

// The helper's end of the ring of compressed bytes (proto/unpack.proto). Not thread-safe, but
// another thread may send on the same socket.
class RingReader : public ByteSource {
 public:
  // Maps the ring for reading, twice in a row, so that what is available is always one piece.
  // Both descriptors are borrowed for the object's life.
  static absl::StatusOr<std::unique_ptr<RingReader>> Map(int socket, int ring_fd,
                                                         uint64_t ring_bytes);
  ~RingReader() override;
  RingReader(const RingReader&) = delete;
  RingReader& operator=(const RingReader&) = delete;

  // Waits for bytes and returns all that are there; empty at the end of the stream. OutOfRange when
  // the daemon is gone.
  absl::StatusOr<absl::string_view> Next() override;

  // Whether Next would return without waiting.
  absl::StatusOr<bool> Ready() override;

  // Gives the first `bytes` of what Next returned back to the writer.
  absl::Status Release(uint64_t bytes) override;

  uint64_t consumed() const { return consumed_; }

 private:
  RingReader(int socket, const char* memory, uint64_t ring_bytes)
      : socket_(socket), memory_(memory), ring_bytes_(ring_bytes) {}

  // Takes one message; false if there is none and waiting was not allowed.
  absl::StatusOr<bool> Receive(bool wait);
  absl::Status Acknowledge();

  const int socket_;
  const char* const memory_;
  const uint64_t ring_bytes_;
  uint64_t produced_ = 0;
  uint64_t consumed_ = 0;
  uint64_t acknowledged_ = 0;
  bool ended_ = false;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_RING_READER_H_
