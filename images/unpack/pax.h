#ifndef DAVIT_IMAGES_UNPACK_PAX_H_
#define DAVIT_IMAGES_UNPACK_PAX_H_

#include <time.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/unpack/tar_header.h"

// PAX extended headers (POSIX pax, "pax Extended Header"): records "LENGTH KEY=VALUE\n". Pure
// functions over bytes. Everything malformed is DataLoss.
namespace davit::images::unpack {

// More runs than any real sparse file has, and few enough to keep in memory.
inline constexpr size_t kMaxSparseRuns = 256 * 1024;

// What the extended header of one entry overrides. Unknown keys are ignored, an empty value leaves
// the header block's field as it is, and of a repeated key the last value holds.
struct PaxOverrides {
  std::optional<std::string> path;
  std::optional<std::string> link_path;
  std::optional<int64_t> size;
  std::optional<int64_t> uid;
  std::optional<int64_t> gid;
  std::optional<timespec> mtime;
  std::optional<timespec> atime;
  // SCHILY.xattr.NAME (raw bytes), LIBARCHIVE.xattr.NAME (URL-escaped name, base64 value).
  std::vector<std::pair<std::string, std::string>> xattrs;

  // GNU.sparse.*: formats 0.0 and 0.1 carry the map here, 1.0 in front of the data.
  int64_t sparse_major = 0;
  int64_t sparse_minor = 0;
  std::optional<std::string> sparse_name;
  std::optional<int64_t> sparse_size;  // logical size: GNU.sparse.realsize or GNU.sparse.size
  std::vector<SparseRun> sparse_map;
  bool has_sparse_map = false;

  bool sparse_1_0() const { return sparse_major == 1 && sparse_minor == 0; }
};

absl::StatusOr<PaxOverrides> ParsePax(absl::string_view data);

// "1700000000.25", "-1.5": seconds and fraction; digits beyond nanoseconds are dropped. The result
// has 0 <= tv_nsec < 10^9, so that -1.5 is {-2, 500000000}.
absl::StatusOr<timespec> ParsePaxTime(absl::string_view text);

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_PAX_H_
