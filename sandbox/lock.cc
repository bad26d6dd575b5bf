#include "sandbox/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {

absl::StatusOr<sys::UniqueFd> LockDirectory(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/davitd.lock");
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd file,
                         sys::OpenAt(AT_FDCWD, path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  int result;
  do {
    result = flock(file.get(), LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno == EWOULDBLOCK) {
    auto holder = sys::ReadFd(file.get(), 64, path);
    const std::string pid =
        holder.ok() ? std::string(absl::StripAsciiWhitespace(*holder)) : std::string();
    return absl::FailedPreconditionError(
        absl::StrCat("state directory ", directory, " is in use by another davitd",
                     pid.empty() ? "" : absl::StrCat(", pid ", pid),
                     "; stop it first, or give this one directories of its own"));
  }
  if (result != 0) return sys::ErrnoStatus(errno, absl::StrCat("lock ", path));
  if (ftruncate(file.get(), 0) != 0)
    return sys::ErrnoStatus(errno, absl::StrCat("truncate ", path));
  DAVIT_RETURN_IF_ERROR(sys::WriteAll(file.get(), absl::StrCat(getpid(), "\n"), path));
  return file;
}

}  // namespace davit::sandbox
