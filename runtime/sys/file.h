#ifndef DAVIT_RUNTIME_SYS_FILE_H_
#define DAVIT_RUNTIME_SYS_FILE_H_

#include <sys/types.h>

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

// Files that davit itself owns (state, records, configuration). Paths that a container or an image
// can influence go through RootFd (root_fd.h) instead. All functions are thread-safe and add
// O_CLOEXEC. `dirfd` may be AT_FDCWD. Errors are ErrnoStatus with the operation and the name.
namespace davit::sys {

absl::StatusOr<UniqueFd> OpenAt(int dirfd, const std::string& name, int flags, mode_t mode = 0);

// Opens a directory O_PATH|O_DIRECTORY|O_NOFOLLOW.
absl::StatusOr<UniqueFd> OpenDirAt(int dirfd, const std::string& name);

// Makes `name` with `mode` unless it exists already; an existing non-directory is an error.
// The mode is set exactly, whatever the umask.
absl::Status MakeDirAt(int dirfd, const std::string& name, mode_t mode);
// The same for every missing component of an absolute path.
absl::Status MakeDirs(const std::string& path, mode_t mode);

// Reads a whole regular file of at most `limit` bytes; a longer one is ResourceExhausted.
absl::StatusOr<std::string> ReadFileAt(int dirfd, const std::string& name, size_t limit);
absl::StatusOr<std::string> ReadFd(int fd, size_t limit, absl::string_view what);

// One write(2) to an existing file: for cgroup, proc and sysfs files.
absl::Status WriteExistingAt(int dirfd, const std::string& name, absl::string_view data);

// Writes all of `data` to `fd`, resuming after short writes and EINTR.
absl::Status WriteAll(int fd, absl::string_view data, absl::string_view what);

enum class Durability {
  kProcess,  // survives the death of any process: write and rename
  kPower,    // survives a power cut too: fsync of the file and of its directory
};

// Replaces `name` in `dirfd` atomically: a reader sees the old content or the new one, never less.
// The temporary file is ".<name>.tmp" and is removed on failure.
absl::Status WriteFileAtomic(int dirfd, const std::string& name, absl::string_view data,
                             mode_t mode, Durability durability);

// Removes a tree beneath `dirfd` without following links or crossing into other file systems.
// A missing tree is success. Never leaves `dirfd`.
absl::Status RemoveTreeAt(int dirfd, const std::string& name);

// A memfd with `data`, sealed against every change (man 2 fcntl, F_SEAL_*), read offset 0.
absl::StatusOr<UniqueFd> SealedMemfd(const char* name, absl::string_view data);

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_FILE_H_
