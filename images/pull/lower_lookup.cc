#include "images/pull/lower_lookup.h"

#include <fcntl.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

enum class Outcome { kFound, kHidden, kContinueBelow };

// Looks in one layer.
absl::StatusOr<Outcome> LookInLayer(int layer, const std::vector<std::string>& components,
                                    LowerEntry* entry) {
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd dir, sys::OpenAt(layer, ".", O_RDONLY | O_DIRECTORY));
  bool opaque = IsOpaque(dir.get());
  for (size_t i = 0; i < components.size(); ++i) {
    struct stat st;
    if (fstatat(dir.get(), components[i].c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      if (errno != ENOENT) return sys::ErrnoStatus(errno, absl::StrCat("stat ", components[i]));
      return opaque ? Outcome::kHidden : Outcome::kContinueBelow;
    }
    if (IsWhiteout(st)) return Outcome::kHidden;
    if (i + 1 == components.size()) {
      *entry = {std::move(dir), components[i], st};
      return Outcome::kFound;
    }
    if (!S_ISDIR(st.st_mode)) return Outcome::kHidden;
    DAVIT_ASSIGN_OR_RETURN(
        dir, sys::OpenAt(dir.get(), components[i], O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
    opaque = opaque || IsOpaque(dir.get());
  }
  return Outcome::kHidden;
}

}  // namespace

bool IsWhiteout(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == 0; }

bool IsOpaque(int dirfd) {
  char value = 0;
  return fgetxattr(dirfd, "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

absl::StatusOr<LowerEntry> LookUpInLayers(const std::vector<int>& layers, absl::string_view path) {
  const std::vector<std::string> components = absl::StrSplit(path, '/', absl::SkipEmpty());
  LowerEntry entry;
  for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) {
    DAVIT_ASSIGN_OR_RETURN(const Outcome outcome, LookInLayer(*layer, components, &entry));
    if (outcome == Outcome::kFound) return entry;
    if (outcome == Outcome::kHidden) break;
  }
  return absl::NotFoundError(absl::StrCat("no lower layer holds ", path));
}

}  // namespace davit::images
