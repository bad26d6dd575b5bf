#ifndef DAVIT_IMAGES_UNPACK_BENEATH_H_
#define DAVIT_IMAGES_UNPACK_BENEATH_H_

#include <string>

#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images::unpack {

// Opens a path beneath `dirfd` following no symbolic link at all, leaving neither the directory nor
// its file system (man 2 openat2: RESOLVE_BENEATH, NO_SYMLINKS, NO_MAGICLINKS, NO_XDEV; kernel >=
// 5.6). "" is the directory itself. O_CLOEXEC is added. An empty result leaves the reason in errno.
// Stricter than sys::RootFd, which follows links inside the root: whoever calls this has resolved
// them already.
sys::UniqueFd OpenBeneath(int dirfd, absl::string_view path, int flags);

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_BENEATH_H_
