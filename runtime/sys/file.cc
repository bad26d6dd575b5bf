#include "runtime/sys/file.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::sys {

absl::StatusOr<UniqueFd> OpenAt(int dirfd, const std::string& name, int flags, mode_t mode) {
  int fd;
  do {
    fd = openat(dirfd, name.c_str(), flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return ErrnoStatus(errno, absl::StrCat("open ", name));
  return UniqueFd(fd);
}

absl::StatusOr<UniqueFd> OpenDirAt(int dirfd, const std::string& name) {
  return OpenAt(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW);
}

absl::Status MakeDirAt(int dirfd, const std::string& name, mode_t mode) {
  if (mkdirat(dirfd, name.c_str(), mode) == 0) {
    if (fchmodat(dirfd, name.c_str(), mode, 0) != 0) {
      return ErrnoStatus(errno, absl::StrCat("chmod ", name));
    }
    return absl::OkStatus();
  }
  if (errno != EEXIST) return ErrnoStatus(errno, absl::StrCat("mkdir ", name));
  struct stat st;
  if (fstatat(dirfd, name.c_str(), &st, 0) != 0) {
    return ErrnoStatus(errno, absl::StrCat("stat ", name));
  }
  if (!S_ISDIR(st.st_mode)) return ErrnoStatus(ENOTDIR, absl::StrCat("mkdir ", name));
  return absl::OkStatus();
}

absl::Status MakeDirs(const std::string& path, mode_t mode) {
  if (path.empty() || path[0] != '/') {
    return absl::InvalidArgumentError(absl::StrCat("mkdir ", path, ": the path is not absolute"));
  }
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    if (path[slash - 1] == '/') continue;
    DAVIT_RETURN_IF_ERROR(MakeDirAt(AT_FDCWD, path.substr(0, slash), mode));
  }
  if (path.back() != '/') return MakeDirAt(AT_FDCWD, path, mode);
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadFd(int fd, size_t limit, absl::string_view what) {
  std::string data;
  struct stat st;
  size_t chunk = 4096;
  if (fstat(fd, &st) == 0 && st.st_size > 0) chunk = static_cast<size_t>(st.st_size) + 1;
  for (;;) {
    const size_t have = data.size();
    if (have > limit) {
      return absl::ResourceExhaustedError(
          absl::StrCat("read ", what, ": longer than the limit of ", limit, " bytes"));
    }
    const size_t want = std::min(chunk, limit + 1 - have);
    data.resize(have + want);
    const ssize_t n = read(fd, data.data() + have, want);
    if (n < 0) {
      data.resize(have);
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, absl::StrCat("read ", what));
    }
    data.resize(have + static_cast<size_t>(n));
    if (n == 0) return data;
    chunk = std::max<size_t>(4096, data.size());
  }
}

absl::StatusOr<std::string> ReadFileAt(int dirfd, const std::string& name, size_t limit) {
  // O_NONBLOCK: a FIFO planted where a file is expected must not stop the daemon.
  DAVIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenAt(dirfd, name, O_RDONLY | O_NONBLOCK));
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", name));
  if (!S_ISREG(st.st_mode)) {
    return absl::FailedPreconditionError(absl::StrCat("read ", name, ": not a regular file"));
  }
  return ReadFd(fd.get(), limit, name);
}

absl::Status WriteExistingAt(int dirfd, const std::string& name, absl::string_view data) {
  DAVIT_ASSIGN_OR_RETURN(UniqueFd fd, OpenAt(dirfd, name, O_WRONLY));
  ssize_t n;
  do {
    n = write(fd.get(), data.data(), data.size());
  } while (n < 0 && errno == EINTR);
  if (n < 0) return ErrnoStatus(errno, absl::StrCat("write \"", data, "\" to ", name));
  if (static_cast<size_t>(n) != data.size()) {
    return absl::InternalError(absl::StrCat("write \"", data, "\" to ", name, ": short write"));
  }
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, absl::string_view data, absl::string_view what) {
  while (!data.empty()) {
    const ssize_t n = write(fd, data.data(), data.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, absl::StrCat("write ", what));
    }
    data.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

absl::Status WriteFileAtomic(int dirfd, const std::string& name, absl::string_view data,
                             mode_t mode, Durability durability) {
  const std::string temporary = absl::StrCat(".", name, ".tmp");
  DAVIT_ASSIGN_OR_RETURN(UniqueFd fd,
                         OpenAt(dirfd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode));
  auto undo = absl::MakeCleanup([&] { unlinkat(dirfd, temporary.c_str(), 0); });
  if (fchmod(fd.get(), mode) != 0) return ErrnoStatus(errno, absl::StrCat("chmod ", temporary));
  DAVIT_RETURN_IF_ERROR(WriteAll(fd.get(), data, temporary));
  if (durability == Durability::kPower && fsync(fd.get()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fsync ", temporary));
  }
  if (renameat(dirfd, temporary.c_str(), dirfd, name.c_str()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("rename ", temporary, " to ", name));
  }
  std::move(undo).Cancel();
  if (durability == Durability::kPower) {
    DAVIT_ASSIGN_OR_RETURN(UniqueFd dir, OpenAt(dirfd, ".", O_RDONLY | O_DIRECTORY));
    if (fsync(dir.get()) != 0) return ErrnoStatus(errno, absl::StrCat("fsync parent of ", name));
  }
  return absl::OkStatus();
}

namespace {

// A container can nest directories without end, so neither the stack nor the descriptor table may
// grow with the tree: what lies deeper than this is first moved up to the top directory.
constexpr int kMaxRemoveDepth = 32;

class TreeRemover {
 public:
  TreeRemover(int top, dev_t device) : top_(top), device_(device) {}

  absl::Status RemoveChildren(UniqueFd dir, const std::string& name, int depth) {
    std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(dir.get()), closedir);
    if (stream == nullptr) return ErrnoStatus(errno, absl::StrCat("read directory ", name));
    (void)dir.release();  // the stream owns it now
    for (;;) {
      errno = 0;
      const dirent* entry = readdir(stream.get());
      if (entry == nullptr) {
        if (errno != 0) return ErrnoStatus(errno, absl::StrCat("read directory ", name));
        return absl::OkStatus();
      }
      const std::string child = entry->d_name;
      if (child == "." || child == "..") continue;
      DAVIT_RETURN_IF_ERROR(RemoveEntry(::dirfd(stream.get()), child, depth + 1));
    }
  }

 private:
  absl::Status RemoveEntry(int dirfd, const std::string& name, int depth) {
    if (unlinkat(dirfd, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
    if (errno != EISDIR && errno != EPERM) return ErrnoStatus(errno, absl::StrCat("remove ", name));
    if (unlinkat(dirfd, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) {
      return absl::OkStatus();
    }
    if (errno != ENOTEMPTY && errno != EEXIST) {
      return ErrnoStatus(errno, absl::StrCat("remove ", name));
    }
    if (depth > kMaxRemoveDepth) return MoveUp(dirfd, name);
    DAVIT_ASSIGN_OR_RETURN(UniqueFd dir, OpenAt(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    struct stat st;
    if (fstat(dir.get(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", name));
    if (st.st_dev != device_) {
      return absl::FailedPreconditionError(absl::StrCat(
          "remove ", name, ": another file system is mounted there; unmount it first"));
    }
    DAVIT_RETURN_IF_ERROR(RemoveChildren(std::move(dir), name, depth));
    if (unlinkat(dirfd, name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
      return ErrnoStatus(errno, absl::StrCat("remove ", name));
    }
    return absl::OkStatus();
  }

  absl::Status MoveUp(int dirfd, const std::string& name) {
    for (;;) {
      const std::string moved = absl::StrCat(".davit-removing-", counter_++);
      if (renameat(dirfd, name.c_str(), top_, moved.c_str()) == 0) return absl::OkStatus();
      if (errno != EEXIST && errno != ENOTEMPTY && errno != ENOTDIR) {
        return ErrnoStatus(errno, absl::StrCat("move ", name, " up to remove it"));
      }
    }
  }

  const int top_;
  const dev_t device_;
  uint64_t counter_ = 0;
};

}  // namespace

absl::Status RemoveTreeAt(int dirfd, const std::string& name) {
  if (unlinkat(dirfd, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
  if (errno != EISDIR && errno != EPERM) return ErrnoStatus(errno, absl::StrCat("remove ", name));
  DAVIT_ASSIGN_OR_RETURN(UniqueFd top, OpenAt(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  struct stat st;
  if (fstat(top.get(), &st) != 0) return ErrnoStatus(errno, absl::StrCat("stat ", name));
  TreeRemover remover(top.get(), st.st_dev);
  // What was moved up while the top was read is found by reading it again.
  while (unlinkat(dirfd, name.c_str(), AT_REMOVEDIR) != 0) {
    if (errno == ENOENT) break;
    if (errno != ENOTEMPTY && errno != EEXIST) {
      return ErrnoStatus(errno, absl::StrCat("remove ", name));
    }
    DAVIT_ASSIGN_OR_RETURN(UniqueFd dir, OpenAt(top.get(), ".", O_RDONLY | O_DIRECTORY));
    DAVIT_RETURN_IF_ERROR(remover.RemoveChildren(std::move(dir), name, 0));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> SealedMemfd(const char* name, absl::string_view data) {
  UniqueFd fd(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("memfd_create ", name));
  DAVIT_RETURN_IF_ERROR(WriteAll(fd.get(), data, name));
  if (lseek(fd.get(), 0, SEEK_SET) != 0) return ErrnoStatus(errno, absl::StrCat("seek ", name));
  // EBUSY: the kernel has hold of a page for a moment, to move it or to look at its use, and has
  // waited for it for a tenth of a second.
  constexpr int kTries = 20;
  for (int i = 1;
       fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0;
       ++i) {
    if (errno != EBUSY || i == kTries) return ErrnoStatus(errno, absl::StrCat("seal ", name));
  }
  return fd;
}

}  // namespace davit::sys
