#include "sandbox/netns_binding.h"

#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::sandbox {

absl::Status RemoveNetnsBinding(const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  // Detached: somebody may be inside by nsenter. EINVAL: a plain file, whose mount is gone.
  if (umount2(path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL &&
      errno != ENOENT) {
    return sys::ErrnoStatus(errno, absl::StrCat("unmount ", path));
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return sys::ErrnoStatus(errno, absl::StrCat("remove ", path));
  }
  return absl::OkStatus();
}

}  // namespace davit::sandbox
