#include "sandbox/writable_layers.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/spec/id_mapping.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/ids.h"
#include "sandbox/records.h"

namespace davit::sandbox {
namespace {

// Between tries of what could not be unlinked. It holds up what comes after it for as long.
constexpr absl::Duration kFirstPause = absl::Milliseconds(200);
constexpr absl::Duration kLongestPause = absl::Seconds(5);

// overlayfs' own marks say something of the layer, not of the directory.
constexpr char kOverlayMarks[] = "trusted.overlay.";

absl::Status CopyAttributes(int from, int to) {
  // Most have none, and each container's creation comes by here.
  const ssize_t any = flistxattr(from, nullptr, 0);
  if (any == 0 || (any < 0 && errno == ENOTSUP)) return absl::OkStatus();
  std::string names(XATTR_LIST_MAX, '\0');
  const ssize_t length = flistxattr(from, names.data(), names.size());
  if (length < 0) return sys::ErrnoStatus(errno, "list the root directory's attributes");
  names.resize(static_cast<size_t>(length));
  std::string value(XATTR_SIZE_MAX, '\0');
  for (const char* name = names.c_str(); name < names.c_str() + names.size();
       name += strlen(name) + 1) {
    if (absl::StartsWith(name, kOverlayMarks)) continue;
    const ssize_t size = fgetxattr(from, name, value.data(), value.size());
    if (size < 0 || fsetxattr(to, name, value.data(), static_cast<size_t>(size), 0) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("copy attribute ", name));
    }
  }
  return absl::OkStatus();
}

uint32_t Mapped(const std::vector<runtime::spec::IdMapping>& maps, uint32_t id) {
  if (maps.empty()) return id;
  const std::optional<uint32_t> mapped = runtime::spec::HostId(maps, id);
  return mapped.value_or(runtime::spec::HostId(maps, 0).value_or(maps[0].host_id));
}

absl::Status MakeUpper(int layer, const std::string& root_dir,
                       const WritableLayers::Owners& owners) {
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd root,
                         sys::OpenAt(AT_FDCWD, root_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  struct stat st;
  if (fstat(root.get(), &st) != 0) return sys::ErrnoStatus(errno, absl::StrCat("stat ", root_dir));
  if (mkdirat(layer, "upper", 0700) != 0) return sys::ErrnoStatus(errno, "make upper");
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd upper,
                         sys::OpenAt(layer, "upper", O_RDONLY | O_DIRECTORY | O_NOFOLLOW));
  // The owner first: a change of it clears the set-id bits.
  if (fchown(upper.get(), Mapped(owners.uids, st.st_uid), Mapped(owners.gids, st.st_gid)) != 0) {
    return sys::ErrnoStatus(errno, "chown upper");
  }
  if (fchmod(upper.get(), st.st_mode & 07777) != 0) return sys::ErrnoStatus(errno, "chmod upper");
  return CopyAttributes(root.get(), upper.get());
}

}  // namespace

WritableLayers::WritableLayers(const std::string& root)
    : containers_(absl::StrCat(root, "/containers")), trash_(absl::StrCat(root, "/trash")) {}

WritableLayers::~WritableLayers() {
  sys::MutexLock lock(&mutex_);
  ending_ = true;
  ends_.SignalAll();
}

void WritableLayers::Unlink(const std::string& path, absl::Duration pause) {
  if (sys::RemoveTreeAt(AT_FDCWD, path).ok()) return;
  // A descriptor or memory was short, or a mount is still on its way out. What fails to the end is
  // tried again at the next start.
  {
    sys::MutexLock lock(&mutex_);
    if (!ending_) ends_.WaitWithDeadline(&mutex_, absl::Now() + pause);
    if (ending_) return;
  }
  unlinker_.Run([this, path, pause] { Unlink(path, std::min(2 * pause, kLongestPause)); });
}

absl::StatusOr<std::unique_ptr<WritableLayers>> WritableLayers::Open(const std::string& root) {
  auto layers = std::unique_ptr<WritableLayers>(new WritableLayers(root));
  // 0711: a container in a user namespace must be able to reach its own upper directory.
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(layers->containers_, 0711));
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(layers->trash_, 0700));
  DAVIT_ASSIGN_OR_RETURN(const auto left, ListDirectory(layers->trash_));
  for (const std::string& name : left) {
    layers->unlinker_.Run([raw = layers.get(), path = absl::StrCat(layers->trash_, "/", name)] {
      raw->Unlink(path, kFirstPause);
    });
  }
  return layers;
}

std::string WritableLayers::DirectoryOf(const std::string& container_id) const {
  return absl::StrCat(containers_, "/", container_id);
}

absl::Status WritableLayers::Make(const std::string& container_id, const std::string& root_dir,
                                  const Owners& owners) {
  const std::string path = DirectoryOf(container_id);
  if (mkdir(path.c_str(), 0711) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("make writable layer ", path));
  }
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd layer, sys::OpenDirAt(AT_FDCWD, path));
  return sys::Annotate(MakeUpper(layer.get(), root_dir, owners),
                       absl::StrCat("writable layer ", path));
}

absl::Status WritableLayers::Remove(const std::string& container_id) {
  const std::string from = DirectoryOf(container_id);
  const std::string to = absl::StrCat(trash_, "/", container_id, ".", NewId().substr(0, 8));
  if (rename(from.c_str(), to.c_str()) != 0) {
    if (errno == ENOENT) return absl::OkStatus();
    // The trash may need another block for one more name.
    if (errno == ENOSPC || errno == EDQUOT) return sys::RemoveTreeAt(AT_FDCWD, from);
    return sys::ErrnoStatus(errno, absl::StrCat("move writable layer ", from, " to the trash"));
  }
  unlinker_.Run([this, to] { Unlink(to, kFirstPause); });
  return absl::OkStatus();
}

absl::StatusOr<std::string> WritableLayers::SetAside(const std::string& container_id) {
  return sandbox::SetAside(containers_, container_id);
}

absl::StatusOr<std::vector<std::string>> WritableLayers::List() const {
  DAVIT_ASSIGN_OR_RETURN(auto names, ListDirectory(containers_));
  std::vector<std::string> ids;
  for (std::string& name : names) {
    if (IsId(name)) ids.push_back(std::move(name));
  }
  return ids;
}

}  // namespace davit::sandbox
