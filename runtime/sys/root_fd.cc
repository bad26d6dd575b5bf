#include "runtime/sys/root_fd.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sys {
namespace {

// A rename or mount anywhere on the system can make a scoped lookup answer EAGAIN; it passes.
constexpr int kMaxRetries = 200;

int OpenAt2(int dirfd, const char* path, int flags, mode_t mode) {
  open_how how{};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  how.mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode : 0;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  for (int attempt = 0;; ++attempt) {
    const long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof how);
    if (fd >= 0) return static_cast<int>(fd);
    if (errno == EINTR) continue;
    if (errno != EAGAIN || attempt >= kMaxRetries) return -1;
    const timespec pause{0, 10'000};
    nanosleep(&pause, nullptr);
  }
}

std::string Relative(absl::string_view path) {
  while (!path.empty() && path.front() == '/') path.remove_prefix(1);
  return path.empty() ? std::string(".") : std::string(path);
}

}  // namespace

absl::StatusOr<RootFd> RootFd::Open(const std::string& host_path) {
  DAVIT_ASSIGN_OR_RETURN(UniqueFd dir, sys::OpenAt(AT_FDCWD, host_path, O_PATH | O_DIRECTORY));
  return RootFd(std::move(dir));
}

absl::StatusOr<UniqueFd> RootFd::OpenAt(absl::string_view path, int flags, mode_t mode) const {
  UniqueFd fd(OpenAt2(dir_.get(), Relative(path).c_str(), flags, mode));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("open ", path, " beneath the root"));
  return fd;
}

absl::StatusOr<std::string> RootFd::ReadRegular(absl::string_view path, size_t limit) const {
  DAVIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenAt(path, O_RDONLY | O_NONBLOCK | O_NOCTTY));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", path));
  if (!S_ISREG(st.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("read ", path, ": not a regular file"));
  }
  return ReadFd(fd.get(), limit, path);
}

absl::StatusOr<UniqueFd> RootFd::MakeDirs(absl::string_view path, mode_t mode) const {
  auto existing = OpenAt(path, O_PATH | O_DIRECTORY);
  if (existing.ok() || existing.status().code() != absl::StatusCode::kNotFound) return existing;
  // Each prefix is resolved from the root again, so a link in the middle cannot lead outside; only
  // the last name, which does not exist, is made relative to its resolved parent.
  std::string prefix;
  UniqueFd parent;
  for (absl::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    if (part == ".") continue;
    DAVIT_ASSIGN_OR_RETURN(parent, OpenAt(prefix, O_PATH | O_DIRECTORY));
    absl::StrAppend(&prefix, "/", part);
    auto next = OpenAt(prefix, O_PATH | O_DIRECTORY);
    if (next.ok()) continue;
    if (next.status().code() != absl::StatusCode::kNotFound) return next.status();
    if (part == "..") return next.status();
    const std::string name(part);
    if (mkdirat(parent.get(), name.c_str(), mode) != 0) {
      if (errno != EEXIST) return ErrnoStatus(errno, absl::StrCat("mkdir ", prefix));
    } else if (fchmodat(parent.get(), name.c_str(), mode, 0) != 0) {
      return ErrnoStatus(errno, absl::StrCat("chmod ", prefix));
    }
  }
  return OpenAt(path, O_PATH | O_DIRECTORY);
}

absl::StatusOr<UniqueFd> RootFd::MakeFile(absl::string_view path, mode_t mode) const {
  auto existing = OpenAt(path, O_PATH);
  if (existing.ok() || existing.status().code() != absl::StatusCode::kNotFound) return existing;
  const size_t slash = path.rfind('/');
  const absl::string_view parent_path =
      slash == absl::string_view::npos ? absl::string_view() : path.substr(0, slash);
  const std::string name(slash == absl::string_view::npos ? path : path.substr(slash + 1));
  if (name.empty() || name == "." || name == "..") {
    return absl::InvalidArgumentError(absl::StrCat("make file ", path, ": not a file name"));
  }
  DAVIT_ASSIGN_OR_RETURN(UniqueFd parent, MakeDirs(parent_path, 0755));
  UniqueFd created(openat(parent.get(), name.c_str(),
                          O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
  if (!created.ok() && errno != EEXIST) return ErrnoStatus(errno, absl::StrCat("create ", path));
  return OpenAt(path, O_PATH);
}

}  // namespace davit::sys
