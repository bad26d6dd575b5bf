#include "cri/merged_file.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/root_fd.h"

namespace davit::cri {
namespace {

constexpr int kMaxLinks = 40;  // as the kernel (man 7 path_resolution)
// A stranger chose the links and the depth: each component is looked up from the top in every
// layer, which without bounds would keep a thread for hours. Real paths need some hundreds of
// opens.
constexpr size_t kMaxSteps = 256;  // components walked in all
constexpr size_t kMaxOpens = 10000;

bool IsWhiteout(const struct stat& st) {
  return S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0);
}

// An O_PATH descriptor cannot be asked for attributes, its /proc name can.
bool IsOpaque(int fd) {
  char value = 0;
  const std::string name = absl::StrCat("/proc/self/fd/", fd);
  return ::getxattr(name.c_str(), "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

// What the merged tree has at a path without links in it.
struct Found {
  size_t layer = 0;
  struct stat st = {};
  std::string link;  // of a symbolic link
};

absl::StatusOr<std::string> ReadLink(int fd) {
  char target[PATH_MAX];
  const ssize_t length = ::readlinkat(fd, "", target, sizeof(target));
  if (length < 0) return sys::ErrnoStatus(errno, "readlink");
  return std::string(target, static_cast<size_t>(length));
}

class MergedTree {
 public:
  explicit MergedTree(const std::vector<std::string>& lower_dirs) : lower_dirs_(lower_dirs) {}

  absl::Status Open() {
    for (const std::string& directory : lower_dirs_) {
      DAVIT_ASSIGN_OR_RETURN(sys::RootFd root, sys::RootFd::Open(directory));
      layers_.push_back(std::move(root));
    }
    return absl::OkStatus();
  }

  // `components` has no ".", "..", or links but possibly the last.
  absl::StatusOr<Found> Lookup(const std::vector<std::string>& components) {
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      bool hides_below = false;
      std::string prefix;
      for (size_t i = 0; i < components.size(); ++i) {
        absl::StrAppend(&prefix, "/", components[i]);
        if (++opens_ > kMaxOpens) {
          return absl::FailedPreconditionError("image file: too many layers and links on the way");
        }
        absl::StatusOr<sys::UniqueFd> fd = layers_[layer].OpenAt(prefix, O_PATH | O_NOFOLLOW);
        if (absl::IsNotFound(fd.status())) break;
        DAVIT_RETURN_IF_ERROR(fd.status());
        Found found;
        if (::fstat(fd->get(), &found.st) != 0) {
          return sys::ErrnoStatus(errno, absl::StrCat("fstat ", prefix));
        }
        if (IsWhiteout(found.st)) return NotFound(components);
        if (i + 1 == components.size()) {
          found.layer = layer;
          if (S_ISLNK(found.st.st_mode)) {
            DAVIT_ASSIGN_OR_RETURN(found.link, ReadLink(fd->get()));
          }
          return found;
        }
        // A file or link in a directory's place hides all that lower layers have there.
        if (!S_ISDIR(found.st.st_mode)) return NotFound(components);
        hides_below = hides_below || IsOpaque(fd->get());
      }
      if (hides_below) break;
    }
    return NotFound(components);
  }

  absl::StatusOr<std::string> Read(size_t layer, const std::vector<std::string>& components,
                                   size_t limit) const {
    return layers_[layer].ReadRegular(absl::StrCat("/", absl::StrJoin(components, "/")), limit);
  }

 private:
  static absl::Status NotFound(const std::vector<std::string>& components) {
    return absl::NotFoundError(absl::StrCat("the image has no /", absl::StrJoin(components, "/")));
  }

  const std::vector<std::string>& lower_dirs_;
  std::vector<sys::RootFd> layers_;
  size_t opens_ = 0;
};

void PushFront(absl::string_view path, std::deque<std::string>* pending) {
  const std::vector<std::string> parts = absl::StrSplit(path, '/', absl::SkipEmpty());
  pending->insert(pending->begin(), parts.begin(), parts.end());
}

// Where a path leads once its links are followed.
struct Resolved {
  std::vector<std::string> components;  // none: the root
  Found found;
};

absl::StatusOr<Resolved> Resolve(MergedTree* tree, absl::string_view path) {
  std::deque<std::string> pending;
  PushFront(path, &pending);
  Resolved at;
  int links = 0;
  for (size_t steps = 0; !pending.empty(); ++steps) {
    if (steps > kMaxSteps) {
      return absl::FailedPreconditionError(absl::StrCat("image file ", path, ": path too long"));
    }
    const std::string component = std::move(pending.front());
    pending.pop_front();
    if (component == ".") continue;
    if (component == "..") {
      if (!at.components.empty()) at.components.pop_back();
      continue;
    }
    at.components.push_back(component);
    DAVIT_ASSIGN_OR_RETURN(at.found, tree->Lookup(at.components));
    if (!S_ISLNK(at.found.st.st_mode)) continue;
    if (++links > kMaxLinks) {
      return absl::FailedPreconditionError(
          absl::StrCat("image file ", path, ": too many levels of symbolic links"));
    }
    at.components.pop_back();
    if (!at.found.link.empty() && at.found.link[0] == '/') at.components.clear();
    PushFront(at.found.link, &pending);
  }
  // After a final ".." or link to the root what was found last is not where the path leads.
  if (!at.components.empty()) {
    DAVIT_ASSIGN_OR_RETURN(at.found, tree->Lookup(at.components));
  }
  return at;
}

}  // namespace

absl::StatusOr<std::string> ReadMergedFile(const std::vector<std::string>& lower_dirs,
                                           absl::string_view path, size_t limit) {
  MergedTree tree(lower_dirs);
  DAVIT_RETURN_IF_ERROR(tree.Open());
  DAVIT_ASSIGN_OR_RETURN(const Resolved at, Resolve(&tree, path));
  if (at.components.empty() || !S_ISREG(at.found.st.st_mode)) {
    return absl::FailedPreconditionError(
        absl::StrCat("image file ", path, " is not a regular file"));
  }
  return tree.Read(at.found.layer, at.components, limit);
}

bool MergedDirectoryExists(const std::vector<std::string>& lower_dirs, absl::string_view path) {
  MergedTree tree(lower_dirs);
  if (!tree.Open().ok()) return false;
  const absl::StatusOr<Resolved> at = Resolve(&tree, path);
  return at.ok() && (at->components.empty() || S_ISDIR(at->found.st.st_mode));
}

}  // namespace davit::cri
