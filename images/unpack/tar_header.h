#ifndef DAVIT_IMAGES_UNPACK_TAR_HEADER_H_
#define DAVIT_IMAGES_UNPACK_TAR_HEADER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The fixed 512-byte header block in all its dialects: v7, POSIX ustar, old GNU, star. Pure
// functions over bytes. Everything malformed is DataLoss.
namespace davit::images::unpack {

inline constexpr size_t kTarBlock = 512;

// A numeric field: octal digits padded with spaces and NULs, or base-256 (the first byte has its
// high bit set; big-endian two's complement over the remaining bits, so negative values exist). An
// empty field is 0. Values that int64_t does not hold are errors.
absl::StatusOr<int64_t> ParseTarNumber(absl::string_view field);

// A run of bytes of a sparse file.
struct SparseRun {
  uint64_t offset = 0;
  uint64_t length = 0;
};

enum class TarDialect { kV7, kUstar, kStar, kGnu };

// What one header block says, before extension headers change it.
struct TarHeader {
  TarDialect dialect = TarDialect::kV7;
  char type = '0';
  std::string name;  // the prefix joined
  std::string link;
  int64_t mode = 0;
  int64_t uid = 0;
  int64_t gid = 0;
  int64_t size = 0;  // never negative
  int64_t mtime = 0;
  int64_t major = 0;  // of device entries only
  int64_t minor = 0;
};

bool IsZeroBlock(absl::string_view block);

// Verifies the checksum (as unsigned and as signed bytes: both kinds of writer existed) and reads
// the fields. `block` has 512 bytes.
absl::StatusOr<TarHeader> ParseTarHeader(absl::string_view block);

// The sparse map of an old GNU header (type 'S'). Appends runs to `map`; `extended` tells whether
// an extension block follows the header.
absl::Status ParseGnuSparseHeader(absl::string_view block, std::vector<SparseRun>* map,
                                  uint64_t* real_size, bool* extended);
absl::Status ParseGnuSparseExtension(absl::string_view block, std::vector<SparseRun>* map,
                                     bool* extended);

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_TAR_HEADER_H_
