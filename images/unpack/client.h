#ifndef DAVIT_IMAGES_UNPACK_CLIENT_H_
#define DAVIT_IMAGES_UNPACK_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/unpack/result.h"

namespace davit::images::unpack {

// How far an unpack has come. Grows while there is life: a layer whose download has ended but whose
// counters still move is not stuck.
struct Progress {
  uint64_t compressed_bytes = 0;  // that the unpacker has consumed
  uint64_t tar_bytes = 0;
  uint64_t entries = 0;
};

// Turns one compressed layer into files beneath a staging directory, in one pass.
// Exactly one thread at a time calls TryWrite, Write or Finish. Abort and progress() may be called
// from any thread at any time. Destroying an Unpacker that has not finished aborts it.
//
// Errors, the same for every call: FailedPrecondition (the layer breaks a rule or a limit: a path
// that leaves the root, a device 0:0, too many entries, ...), DataLoss (truncated or corrupt
// compression or tar), ResourceExhausted (disk full, quota), Cancelled (after Abort), Internal (the
// unpacker died or broke its protocol). After an error every further call returns the same one, and
// the staging directory holds leftovers that the caller removes.
class Unpacker {
 public:
  virtual ~Unpacker() = default;

  // Takes as much of the compressed bytes as there is room for now and returns how many; 0 means
  // full: try again when event_fd() is readable. Never blocks.
  virtual absl::StatusOr<size_t> TryWrite(absl::string_view data) = 0;

  // Takes all of `data`, waiting for room.
  virtual absl::Status Write(absl::string_view data) = 0;

  // Says that the blob is complete, waits until everything is unpacked, applies what the helper may
  // not do itself (whiteouts, opaque marks, device nodes), and returns what the layer is. Nothing
  // has been synced to disk. The caller compares the diff ID, and the blob's own digest, which it
  // has computed over the bytes that it wrote. A blob of no bytes at all is an empty layer.
  virtual absl::StatusOr<UnpackResult> Finish() = 0;

  // Ends the unpack at once; a call that waits in another thread returns Cancelled.
  virtual void Abort() = 0;

  virtual Progress progress() const = 0;

  // Becomes readable when TryWrite has a chance again (room, or an error to report). Level
  // triggered; for poll only. Owned by the Unpacker.
  virtual int event_fd() const = 0;
};

struct UnpackOptions {
  // The executable davit-unpack, usually a sealed memfd made once at start. Borrowed during Start.
  int helper_fd = -1;
  // The layer's top directory: empty, private to this unpack, 0755 and root's unless the layer says
  // otherwise. Borrowed during Start (a duplicate is kept).
  int staging_fd = -1;
  // The lowest layer of its image: whiteouts have nothing to hide and are dropped
  // (UnpackResult::dropped_whiteouts).
  bool lowest_layer = false;
  Limits limits;
};

// Runs davit-unpack for one layer: a process of its own that sees nothing but the staging directory
// (own mount namespace, pivoted), under seccomp, without CAP_SYS_ADMIN and CAP_MKNOD, at nice 10.
// Whatever hostile bytes do to it fails this one layer. It dies when this object is destroyed or
// its owner is killed. Bytes go there through shared memory (one copy); see proto/unpack.proto.
//
// Everything that comes back is treated as hostile: Finish re-validates each record and resolves
// each path beneath the staging directory with openat2, after the helper is gone.
absl::StatusOr<std::unique_ptr<Unpacker>> StartUnpackProcess(const UnpackOptions& options);

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_CLIENT_H_
