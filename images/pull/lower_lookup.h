#ifndef DAVIT_IMAGES_PULL_LOWER_LOOKUP_H_
#define DAVIT_IMAGES_PULL_LOWER_LOOKUP_H_

#include <sys/stat.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images {

// Something in the merged view of layers.
struct LowerEntry {
  sys::UniqueFd parent;  // readable
  std::string name;
  struct stat st = {};
};

bool IsWhiteout(const struct stat& st);
bool IsOpaque(int dirfd);

// Finds `path` (relative, without "." and "..") in the overlay of `layers` (bottom first; readable
// directory descriptors) as overlayfs would, but following no symbolic link at all: whiteouts and
// opaque directories hide what is below them. NotFound.
absl::StatusOr<LowerEntry> LookUpInLayers(const std::vector<int>& layers, absl::string_view path);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_LOWER_LOOKUP_H_
