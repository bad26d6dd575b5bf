#include "sandbox/lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

// A child of a killed daemon needs microseconds to its exec; this bounds a machine in trouble.
constexpr absl::Duration kChildTimeout = absl::Seconds(5);
constexpr size_t kMaxFile = 4096;
// A pid and a newline, and some room.
constexpr off_t kMaxLockFile = 16;

// The pid in the file, 0 if there is none (yet).
pid_t HolderOf(int file) {
  char text[32] = {};
  int pid = 0;
  if (pread(file, text, sizeof text - 1, 0) <= 0 ||
      !absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &pid)) {
    return 0;
  }
  return pid;
}

// Not for a zombie: all of it but its number is gone (man 5 proc, stat; the state follows the name,
// which may hold anything).
bool Lives(pid_t pid) {
  const auto stat = sys::ReadFileAt(AT_FDCWD, absl::StrCat("/proc/", pid, "/stat"), kMaxFile);
  if (!stat.ok()) return !absl::IsNotFound(stat.status());
  const size_t name = stat->rfind(") ");
  return name == std::string::npos || ((*stat)[name + 2] != 'Z' && (*stat)[name + 2] != 'X');
}

}  // namespace

absl::StatusOr<sys::UniqueFd> LockDirectory(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/davitd.lock");
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd file,
                         sys::OpenAt(AT_FDCWD, path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  const absl::Time deadline = absl::Now() + kChildTimeout;
  int result;
  while ((result = flock(file.get(), LOCK_EX | LOCK_NB)) != 0) {
    if (errno == EINTR) continue;
    if (errno != EWOULDBLOCK) break;
    const pid_t holder = HolderOf(file.get());
    // A child between fork and exec has every descriptor of a daemon that was killed meanwhile.
    if (holder > 0 && !Lives(holder) && absl::Now() < deadline) {
      absl::SleepFor(absl::Milliseconds(2));
      continue;
    }
    return absl::FailedPreconditionError(
        absl::StrCat("state directory ", directory, " is in use by another davitd",
                     holder > 0 ? absl::StrCat(", pid ", holder) : "",
                     "; stop it first, or give this one directories of its own"));
  }
  if (result != 0) return sys::ErrnoStatus(errno, absl::StrCat("lock ", path));
  struct stat st;
  if (fstat(file.get(), &st) != 0) return sys::ErrnoStatus(errno, absl::StrCat("stat ", path));
  if (st.st_size > kMaxLockFile) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is no lock of davitd's: it holds ",
                                                      st.st_size,
                                                      " bytes of somebody else's; move it away"));
  }
  if (ftruncate(file.get(), 0) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("truncate ", path));
  }
  DAVIT_RETURN_IF_ERROR(sys::WriteAll(file.get(), absl::StrCat(getpid(), "\n"), path));
  return file;
}

}  // namespace davit::sandbox
