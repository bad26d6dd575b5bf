#ifndef DAVIT_IMAGES_UNPACK_DECOMPRESSOR_H_
#define DAVIT_IMAGES_UNPACK_DECOMPRESSOR_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/unpack/result.h"

namespace davit::images::unpack {

// One decoder of one format; used through Decompressor.
class Decoder {
 public:
  virtual ~Decoder() = default;
  // As Decompressor::Decode.
  virtual absl::StatusOr<size_t> Decode(absl::string_view* in, char* out, size_t size) = 0;
  virtual absl::Status Finish() = 0;
};

// Streaming decompression of a layer blob. The format is told by the first bytes, never by a media
// type: gzip (any number of members, each with its checksum and size verified), zstd (any number of
// frames, skippable ones, a window of at most 128 MiB), anything else is passed through.
// Touches no files; not thread-safe. Errors: DataLoss (corrupt, truncated, bytes behind the end),
// FailedPrecondition (a zstd window that is too large).
class Decompressor {
 public:
  // Takes bytes off the front of `in` and writes at most `size` (> 0) to `out`; returns how many it
  // wrote. Call it again while `in` is not empty or the last call filled `out`.
  absl::StatusOr<size_t> Decode(absl::string_view* in, char* out, size_t size);

  // All input has been given. May still write to `out`; call it until it writes nothing.
  // DataLoss if the stream stops in the middle.
  absl::StatusOr<size_t> Finish(char* out, size_t size);

  Compression kind() const { return kind_; }

 private:
  void Choose();

  Compression kind_ = Compression::kNone;
  std::unique_ptr<Decoder> decoder_;
  std::string head_;  // first bytes, until the format is known, then until they are decoded
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_DECOMPRESSOR_H_
