#ifndef DAVIT_RUNTIME_SYS_ROOT_FD_H_
#define DAVIT_RUNTIME_SYS_ROOT_FD_H_

#include <sys/stat.h>
#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sys {

// A directory that is the root for everything resolved through it: the only way to touch a path
// that an image or a container can influence (man 2 openat2, kernel >= 5.6).
// Paths are taken as if this directory were "/": absolute links and ".." stay inside, magic links
// (/proc/PID/fd/N and the like) are refused. There is no user-space fallback. EAGAIN from a rename
// storm is retried for a bounded time, then reported.
// Thread-safe (const methods only share the descriptor).
class RootFd {
 public:
  RootFd() = default;
  explicit RootFd(UniqueFd dir) : dir_(std::move(dir)) {}

  static absl::StatusOr<RootFd> Open(const std::string& host_path);

  int get() const { return dir_.get(); }
  bool ok() const { return dir_.ok(); }

  // openat2 with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS. NotFound, FailedPrecondition (ELOOP,
  // ENOTDIR).
  absl::StatusOr<UniqueFd> OpenAt(absl::string_view path, int flags, mode_t mode = 0) const;

  // Reads a regular file of at most `limit` bytes. FIFOs and devices are refused without blocking
  // (CVE-2024-9676: a planted FIFO must not hang the host).
  absl::StatusOr<std::string> ReadRegular(absl::string_view path, size_t limit) const;

  // Makes the directory and every missing parent, component by component beneath the root; existing
  // ones are kept as they are. Returns an O_PATH descriptor of the last.
  absl::StatusOr<UniqueFd> MakeDirs(absl::string_view path, mode_t mode) const;

  // Makes an empty regular file (and its parents, 0755) if nothing is there; returns it O_PATH.
  absl::StatusOr<UniqueFd> MakeFile(absl::string_view path, mode_t mode) const;

 private:
  UniqueFd dir_;
};

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_ROOT_FD_H_
