#ifndef DAVIT_SANDBOX_STATUS_RECORD_H_
#define DAVIT_SANDBOX_STATUS_RECORD_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

namespace davit::supervisor::v1 {
class ContainerState;
}

// The status of one container on disk, `<container_dir>/status`: written by the container's
// supervisor before anyone is told, read by a daemon that restarts.
//
// Format, version 1. The file is 4096 bytes, preallocated: two slots of 2048 bytes. All numbers are
// little-endian.
//
//   offset size
//        0    8  magic "DAVITST\0"
//        8    4  format version, 1
//       12    4  length of the payload, at most 2016
//       16    8  sequence number, from 1; the slot's index is its parity
//       24    4  CRC-32C of bytes 0 to 23 and of the payload
//       28    4  zero
//       32       payload: a serialized davit.supervisor.v1.ContainerState
//
// Every write goes to the slot that does not hold the newest record, with one pwrite(2): a writer
// killed half-way, or a reader that comes in between, finds the record before it. Nothing is
// synced: the record has to outlive processes, not the machine, whose containers die with it.
namespace davit::sandbox {

inline constexpr size_t kStatusSlotSize = 2048;
inline constexpr size_t kStatusHeaderSize = 32;
inline constexpr size_t kStatusFileSize = 2 * kStatusSlotSize;
// A longer `message` is cut to this many bytes, so that a record always fits its slot.
inline constexpr size_t kStatusMaxMessage = 1024;

// The writing end; one per file at a time. Not thread-safe.
class StatusWriter {
 public:
  // Creates the file (mode 0600) with both slots reserved on disk, so that a later write cannot
  // fail for want of space. An existing file is continued: its newest record stays until the next
  // write.
  static absl::StatusOr<StatusWriter> Open(const std::string& path);

  // Goes on with a file that another program opened so.
  static absl::StatusOr<StatusWriter> Adopt(sys::UniqueFd fd);

  StatusWriter() = default;
  int fd() const { return fd_.get(); }

  // One pwrite. Overlong messages are cut; an id that leaves no room is InvalidArgument.
  absl::Status Write(const supervisor::v1::ContainerState& state);

 private:
  sys::UniqueFd fd_;
  uint64_t sequence_ = 0;
};

// Reads the newest valid record. NotFound without a file, or when none was ever written; DataLoss
// when slots hold something but none is valid; Unimplemented for a newer format version.
absl::StatusOr<supervisor::v1::ContainerState> ReadStatus(const std::string& path);
// The same from the bytes of a file.
absl::StatusOr<supervisor::v1::ContainerState> ParseStatus(absl::string_view file);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_STATUS_RECORD_H_
