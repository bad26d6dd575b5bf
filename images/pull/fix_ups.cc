#include "images/pull/fix_ups.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "images/pull/lower_lookup.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/root_fd.h"

namespace davit::images {
namespace {

constexpr size_t kCopyChunk = 1 << 20;

std::string Shown(absl::string_view path) { return absl::CHexEscape(path.substr(0, 300)); }

std::pair<std::string, std::string> SplitPath(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {path.substr(0, slash), path.substr(slash + 1)};
}

// A way to get at the attributes of any kind of file without following a link.
std::string ProcPath(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

absl::Status CopyXattrs(int from, int to) {
  const std::string source = ProcPath(from);
  const std::string target = ProcPath(to);
  std::string names(64 * 1024, '\0');
  const ssize_t size = listxattr(source.c_str(), names.data(), names.size());
  if (size < 0) return errno == ENOTSUP ? absl::OkStatus() : sys::ErrnoStatus(errno, "listxattr");
  names.resize(static_cast<size_t>(size));
  for (const std::string& name : std::vector<std::string>(absl::StrSplit(names, '\0'))) {
    // The overlay's own marks speak of the layer that they are in.
    if (name.empty() || absl::StartsWith(name, "trusted.overlay.")) continue;
    std::string value(64 * 1024, '\0');
    const ssize_t length = getxattr(source.c_str(), name.c_str(), value.data(), value.size());
    if (length < 0) continue;
    if (setxattr(target.c_str(), name.c_str(), value.data(), static_cast<size_t>(length), 0) != 0 &&
        errno != ENOTSUP) {
      return sys::ErrnoStatus(errno, absl::StrCat("set xattr ", name));
    }
  }
  return absl::OkStatus();
}

// In this order: chown clears set-id bits and file capabilities.
absl::Status CopyAttributes(int from, int to, const struct stat& st, const std::string& path) {
  const std::string target = ProcPath(to);
  if (fchownat(to, "", st.st_uid, st.st_gid, AT_EMPTY_PATH) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("chown ", Shown(path)));
  }
  DAVIT_RETURN_IF_ERROR(CopyXattrs(from, to));
  if (!S_ISLNK(st.st_mode) && chmod(target.c_str(), st.st_mode & 07777) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("chmod ", Shown(path)));
  }
  return absl::OkStatus();
}

class FixUp {
 public:
  FixUp(sys::RootFd staging, const std::vector<int>& lowers)
      : staging_(std::move(staging)), lowers_(lowers) {}

  absl::Status InheritAttributes(const std::string& path) {
    DAVIT_ASSIGN_OR_RETURN(const bool hidden, HiddenByThisLayer(path));
    if (hidden) return absl::OkStatus();
    auto lower = LookUpInLayers(lowers_, path);
    if (absl::IsNotFound(lower.status())) return absl::OkStatus();
    if (!lower.ok()) return lower.status();
    if (!S_ISDIR(lower->st.st_mode)) return absl::OkStatus();
    DAVIT_ASSIGN_OR_RETURN(
        const sys::UniqueFd from,
        sys::OpenAt(lower->parent.get(), lower->name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd to,
                           staging_.OpenAt(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    return CopyAttributes(from.get(), to.get(), lower->st, path);
  }

  absl::Status Link(const unpack::CrossLayerLink& link) {
    const auto lower = LookUpInLayers(lowers_, link.target);
    if (absl::IsNotFound(lower.status()) || (lower.ok() && S_ISDIR(lower->st.st_mode))) {
      return absl::FailedPreconditionError(absl::StrCat("hard link ", Shown(link.path), " to ",
                                                        Shown(link.target),
                                                        ": no layer below holds such a file"));
    }
    if (!lower.ok()) return lower.status();
    DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd link_parent, MakeParents(link.path));
    const std::string link_name = SplitPath(link.path).second;
    DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd target_parent, MakeParents(link.target));
    const std::string target_name = SplitPath(link.target).second;
    struct stat st;
    if (fstatat(target_parent.get(), target_name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) return sys::ErrnoStatus(errno, absl::StrCat("stat ", link.target));
      DAVIT_RETURN_IF_ERROR(CopyUp(*lower, target_parent.get(), target_name));
    } else if (IsWhiteout(st)) {
      // The layer removes the target itself: the links are all that remains of it. One copy for all
      // of them, or a small layer of many such links would fill the disk.
      const auto [first, is_first] = copies_.emplace(link.target, link.path);
      if (is_first) return CopyUp(*lower, link_parent.get(), link_name);
      DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd copy_parent, MakeParents(first->second));
      return MakeLink(copy_parent.get(), SplitPath(first->second).second, link_parent.get(),
                      link_name, link.path);
    }
    return MakeLink(target_parent.get(), target_name, link_parent.get(), link_name, link.path);
  }

 private:
  static absl::Status MakeLink(int from, const std::string& from_name, int to,
                               const std::string& to_name, const std::string& path) {
    if (linkat(from, from_name.c_str(), to, to_name.c_str(), 0) == 0) return absl::OkStatus();
    return sys::ErrnoStatus(errno, absl::StrCat("link ", Shown(path)));
  }

  // What this layer hides of the lower ones it does not inherit from.
  absl::StatusOr<bool> HiddenByThisLayer(const std::string& path) const {
    std::string prefix;
    if (IsOpaque(staging_.get())) return true;
    for (const absl::string_view component : absl::StrSplit(path, '/')) {
      absl::StrAppend(&prefix, prefix.empty() ? "" : "/", component);
      DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd dir,
                             staging_.OpenAt(prefix, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
      if (IsOpaque(dir.get())) return true;
    }
    return false;
  }

  // The directory that `path` is in, each missing one made like its lower counterpart.
  absl::StatusOr<sys::UniqueFd> MakeParents(const std::string& path) {
    std::string prefix;
    const std::string parent = SplitPath(path).first;
    if (parent != ".") {
      for (const absl::string_view component : absl::StrSplit(parent, '/')) {
        const std::string above = prefix.empty() ? "." : prefix;
        absl::StrAppend(&prefix, prefix.empty() ? "" : "/", component);
        DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd dir,
                               staging_.OpenAt(above, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
        struct stat st;
        if (fstatat(dir.get(), std::string(component).c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
          continue;
        }
        DAVIT_RETURN_IF_ERROR(sys::MakeDirAt(dir.get(), std::string(component), 0755));
        DAVIT_RETURN_IF_ERROR(InheritAttributes(prefix));
      }
    }
    return staging_.OpenAt(parent, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  }

  static absl::Status CopyData(int from, int to, uint64_t size) {
    if (ioctl(to, FICLONE, from) == 0) return absl::OkStatus();
    for (uint64_t done = 0; done < size;) {
      const ssize_t n = copy_file_range(from, nullptr, to, nullptr, kCopyChunk, 0);
      if (n < 0) return sys::ErrnoStatus(errno, "copy a file up");
      if (n == 0) return absl::DataLossError("a file of a lower layer became shorter");
      done += static_cast<uint64_t>(n);
    }
    return absl::OkStatus();
  }

  static absl::Status MakeLike(const LowerEntry& lower, int parent, const std::string& name) {
    if (S_ISREG(lower.st.st_mode)) {
      DAVIT_ASSIGN_OR_RETURN(
          const sys::UniqueFd from,
          sys::OpenAt(lower.parent.get(), lower.name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
      DAVIT_ASSIGN_OR_RETURN(
          const sys::UniqueFd to,
          sys::OpenAt(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
      return CopyData(from.get(), to.get(), static_cast<uint64_t>(lower.st.st_size));
    }
    if (S_ISLNK(lower.st.st_mode)) {
      char target[4096];
      const ssize_t n =
          readlinkat(lower.parent.get(), lower.name.c_str(), target, sizeof(target) - 1);
      if (n < 0) return sys::ErrnoStatus(errno, "read a symbolic link");
      target[n] = '\0';
      if (symlinkat(target, parent, name.c_str()) != 0) return sys::ErrnoStatus(errno, "symlink");
      return absl::OkStatus();
    }
    if (mknodat(parent, name.c_str(), lower.st.st_mode, lower.st.st_rdev) != 0) {
      return sys::ErrnoStatus(errno, "mknod");
    }
    return absl::OkStatus();
  }

  static absl::Status CopyUp(const LowerEntry& lower, int parent, const std::string& name) {
    absl::Status status = MakeLike(lower, parent, name);
    if (!status.ok()) return sys::Annotate(status, absl::StrCat("copy up ", Shown(name)));
    DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd from,
                           sys::OpenAt(lower.parent.get(), lower.name, O_PATH | O_NOFOLLOW));
    DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd to, sys::OpenAt(parent, name, O_PATH | O_NOFOLLOW));
    DAVIT_RETURN_IF_ERROR(CopyAttributes(from.get(), to.get(), lower.st, name));
    const timespec times[2] = {lower.st.st_atim, lower.st.st_mtim};
    if (utimensat(parent, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("set times of ", Shown(name)));
    }
    return absl::OkStatus();
  }

  const sys::RootFd staging_;
  const std::vector<int>& lowers_;
  std::map<std::string, std::string> copies_;  // by removed target: the first link to it
};

}  // namespace

absl::Status ApplyFixUps(int staging, const std::vector<int>& lowers,
                         const unpack::FixUps& fix_ups) {
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd top, sys::OpenAt(staging, ".", O_RDONLY | O_DIRECTORY));
  FixUp fix_up(sys::RootFd(std::move(top)), lowers);
  for (const std::string& path : fix_ups.implicit_parents) {
    const absl::Status status = fix_up.InheritAttributes(path);
    if (!status.ok()) return sys::Annotate(status, absl::StrCat("directory ", Shown(path)));
  }
  for (const unpack::CrossLayerLink& link : fix_ups.hard_links) {
    DAVIT_RETURN_IF_ERROR(fix_up.Link(link));
  }
  return absl::OkStatus();
}

}  // namespace davit::images
