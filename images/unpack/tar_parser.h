#ifndef DAVIT_IMAGES_UNPACK_TAR_PARSER_H_
#define DAVIT_IMAGES_UNPACK_TAR_PARSER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "images/unpack/pax.h"
#include "images/unpack/tar_entry.h"
#include "images/unpack/tar_header.h"

namespace davit::images::unpack {

// Receives what TarParser finds. An error from any method ends the parse with that error.
class TarVisitor {
 public:
  virtual ~TarVisitor() = default;
  // A new entry. The reference is good until OnEntryEnd.
  virtual absl::Status OnEntry(const TarEntry& entry) = 0;
  // Content of a kFile entry, in ascending order of `offset`; holes are left out.
  virtual absl::Status OnData(uint64_t offset, absl::string_view data) = 0;
  virtual absl::Status OnEntryEnd() = 0;
};

// A push parser of tar streams: v7, ustar, star, GNU (long names, old sparse) and PAX (with sparse
// 0.0, 0.1 and 1.0). Global PAX headers are skipped. Memory is bounded: an extension header has at
// most 1 MiB, a sparse map kMaxSparseRuns. Everything behind the two zero blocks is ignored. Pure:
// touches nothing but its visitor. Not thread-safe.
// Errors: DataLoss (malformed or truncated), FailedPrecondition (well formed, but nothing that a
// layer may hold: an unknown type, an owner out of range), and whatever the visitor returns.
class TarParser {
 public:
  explicit TarParser(TarVisitor* visitor) : visitor_(visitor) {}

  // Takes the next bytes, however they are cut. After an error the parser must not be used again.
  absl::Status Push(absl::string_view data);

  // The stream has ended. One that stops at an entry's border without an end mark is accepted, as
  // every reader does; one that stops inside an entry is truncated.
  absl::Status Finish();

 private:
  enum class State {
    kHeader,           // a header block is due
    kExtension,        // the payload of an x, g, L or K header
    kSparseExtension,  // further blocks of an old GNU sparse map
    kSparseMap,        // decimal lines in front of a PAX 1.0 sparse file's data
    kData,
    kPadding,  // up to the next block border
    kEnd,      // behind the end mark
  };

  // Collects bytes into block_ until it has kTarBlock; true when it has.
  bool FillBlock(absl::string_view* data);
  absl::Status TakeHeaderBlock();
  absl::Status TakeHeader(const TarHeader& header);
  absl::Status TakeExtension();
  absl::Status TakeSparseMapBlock();
  absl::Status TakeData(absl::string_view* data);
  absl::Status BeginEntry(const TarHeader& header);
  absl::Status MergeExtensions(const TarHeader& header);
  absl::Status AnnounceEntry();
  absl::Status CheckSparseMap() const;
  absl::Status EndData();
  void Reset();

  TarVisitor* const visitor_;
  State state_ = State::kHeader;
  std::string block_;  // a block in the making
  bool seen_zero_block_ = false;
  uint64_t padding_ = 0;

  // Extension headers that wait for their entry.
  char extension_type_ = 0;
  uint64_t extension_left_ = 0;
  std::string extension_;
  std::optional<PaxOverrides> pax_;
  std::optional<std::string> gnu_name_;
  std::optional<std::string> gnu_link_;

  // The entry whose data is being read.
  TarEntry entry_;
  uint64_t stored_left_ = 0;  // bytes of it in the archive
  uint64_t stored_padding_ = 0;
  std::vector<SparseRun> map_;  // always set: a plain file is one run
  size_t run_ = 0;
  uint64_t run_done_ = 0;

  // PAX sparse 1.0: numbers still to come, -1 while their count is unknown.
  int64_t map_numbers_left_ = -1;
  std::string map_number_;
  std::optional<uint64_t> map_offset_;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_TAR_PARSER_H_
