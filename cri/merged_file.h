#ifndef DAVIT_CRI_MERGED_FILE_H_
#define DAVIT_CRI_MERGED_FILE_H_

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::cri {

// Reads a file of an image as overlayfs would show it, without mounting anything: the layers are
// searched from the top (`lower_dirs[0]`), whiteouts and opaque directories hide what is below
// (kernel Documentation/filesystems/overlayfs.rst), and symbolic links are followed inside the
// merged tree, at most 40 of them. Everything there was made by a stranger: only regular files of
// at most `limit` bytes are read, a FIFO or device is refused without blocking, and nothing outside
// the layers is ever reached. NotFound if there is no such file; ResourceExhausted beyond `limit`;
// FailedPrecondition for anything but a regular file and for a loop of links. Thread-safe.
absl::StatusOr<std::string> ReadMergedFile(const std::vector<std::string>& lower_dirs,
                                           absl::string_view path, size_t limit);

// Whether the merged tree has a directory at `path`, by the same rules. False if it cannot be told.
bool MergedDirectoryExists(const std::vector<std::string>& lower_dirs, absl::string_view path);

}  // namespace davit::cri

#endif  // DAVIT_CRI_MERGED_FILE_H_
