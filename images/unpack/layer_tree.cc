#include "images/unpack/layer_tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "images/unpack/beneath.h"
#include "images/unpack/layer_path.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images::unpack {
namespace {

constexpr int kDirectoryFlags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW;
constexpr size_t kMaxCached = 256;
constexpr int kMaxLinks = 40;  // as the kernel's MAXSYMLINKS

std::string Quoted(absl::string_view path) {
  return absl::StrCat("\"", absl::CEscape(path.substr(0, 200)), "\"");
}

}  // namespace

// A resolution on its way. `rest` is reversed: its back is the next component.
struct LayerTree::Walk {
  bool create = false;
  sys::UniqueFd dir;      // where it stands; unset at the top
  std::string canonical;  // of `dir`, plus what is missing
  bool missing = false;   // beyond what exists
  std::vector<std::string> rest;
  std::vector<std::string> made;
  int links = 0;

  void Push(absl::string_view path) {
    const std::vector<absl::string_view> parts = absl::StrSplit(path, '/', absl::SkipEmpty());
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) rest.emplace_back(*part);
  }
};

LayerTree::LayerTree(sys::UniqueFd root, uint32_t max_depth)
    : root_(std::move(root)), max_depth_(max_depth) {}

absl::StatusOr<const LayerTree::Directory*> LayerTree::Get(absl::string_view path) {
  if (last_ != nullptr && path == last_key_) return last_.get();
  if (const auto found = cache_.find(std::string(path)); found != cache_.end()) {
    last_key_ = found->first;
    last_ = found->second;
    return last_.get();
  }
  // Most parents exist and have no link in them: one call.
  if (sys::UniqueFd fd = OpenBeneath(root_.get(), path, kDirectoryFlags); fd.ok()) {
    return Insert(path, {std::move(fd), std::string(path)});
  }
  Walk walk;
  walk.create = true;
  walk.Push(path);
  while (!walk.rest.empty()) {
    const std::string name = std::move(walk.rest.back());
    walk.rest.pop_back();
    DAVIT_RETURN_IF_ERROR(Step(&walk, name));
  }
  for (const std::string& made : walk.made) finals_[made] = Final{.implicit = true};
  if (!walk.dir.ok()) walk.dir = OpenBeneath(root_.get(), "", kDirectoryFlags);
  if (!walk.dir.ok()) return sys::ErrnoStatus(errno, "open the layer's top directory");
  return Insert(path, {std::move(walk.dir), std::move(walk.canonical)});
}

absl::StatusOr<std::string> LayerTree::Canonical(absl::string_view path) const {
  Walk walk;
  walk.Push(path);
  while (!walk.rest.empty()) {
    const std::string name = std::move(walk.rest.back());
    walk.rest.pop_back();
    DAVIT_RETURN_IF_ERROR(Step(&walk, name));
  }
  return std::move(walk.canonical);
}

absl::Status LayerTree::Step(Walk* walk, absl::string_view name) const {
  if (name == ".") return absl::OkStatus();
  if (name == "..") {
    if (walk->canonical.empty()) return absl::OkStatus();  // "/.." is "/"
    walk->canonical.resize(ParentOf(walk->canonical).size());
    // With a missing tail this may come back to what exists.
    walk->dir = OpenBeneath(root_.get(), walk->canonical, kDirectoryFlags);
    walk->missing = !walk->dir.ok();
    return absl::OkStatus();
  }
  if (walk->missing) {
    walk->canonical = JoinPath(walk->canonical, name);
    return absl::OkStatus();
  }
  return Enter(walk, name);
}

absl::Status LayerTree::Enter(Walk* walk, absl::string_view name) const {
  const int dir = walk->dir.ok() ? walk->dir.get() : root_.get();
  const std::string next = JoinPath(walk->canonical, name);
  if (next.size() > kMaxLayerPath ||
      static_cast<size_t>(std::count(next.begin(), next.end(), '/')) >= max_depth_) {
    return absl::FailedPreconditionError(
        absl::StrCat("the path ", Quoted(next), " is too long or too deep"));
  }
  const std::string component(name);
  sys::UniqueFd child = OpenBeneath(dir, component, kDirectoryFlags);
  if (!child.ok() && errno == ENOENT) {
    if (!walk->create) {
      walk->missing = true;
      walk->canonical = next;
      return absl::OkStatus();
    }
    if (mkdirat(dir, component.c_str(), 0755) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("make the directory ", Quoted(next)));
    }
    walk->made.push_back(next);
    child = OpenBeneath(dir, component, kDirectoryFlags);
  }
  if (child.ok()) {
    walk->dir = std::move(child);
    walk->canonical = next;
    return absl::OkStatus();
  }
  if (errno != ELOOP && errno != ENOTDIR) {
    return sys::ErrnoStatus(errno, absl::StrCat("open the directory ", Quoted(next)));
  }
  char target[kMaxLayerPath + 1];
  const ssize_t size = readlinkat(dir, component.c_str(), target, sizeof target);
  if (size < 0) {
    if (errno != EINVAL) {
      return sys::ErrnoStatus(errno, absl::StrCat("read the link ", Quoted(next)));
    }
    if (!walk->create) {  // a file where a directory would be: beyond it nothing exists
      walk->missing = true;
      walk->canonical = next;
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(
        absl::StrCat(Quoted(next), " is used as a directory but is none"));
  }
  if (++walk->links > kMaxLinks) {
    return absl::FailedPreconditionError(absl::StrCat("too many symbolic links at ", Quoted(next)));
  }
  const absl::string_view text(target, static_cast<size_t>(size));
  if (text[0] == '/') {
    walk->dir.reset();
    walk->canonical.clear();
  }
  walk->Push(text);
  return absl::OkStatus();
}

absl::StatusOr<const LayerTree::Directory*> LayerTree::OpenChild(const Directory& parent,
                                                                 absl::string_view name) {
  std::string path = JoinPath(parent.path, name);
  sys::UniqueFd fd = OpenBeneath(parent.fd.get(), name, kDirectoryFlags);
  if (!fd.ok()) return sys::ErrnoStatus(errno, absl::StrCat("open the directory ", Quoted(path)));
  const std::string key = path;
  return Insert(key, {std::move(fd), std::move(path)});
}

absl::StatusOr<const LayerTree::Directory*> LayerTree::Insert(absl::string_view key,
                                                              Directory directory) {
  if (cache_.size() >= kMaxCached) cache_.clear();
  last_key_ = std::string(key);
  last_ = std::make_shared<const Directory>(std::move(directory));
  cache_[last_key_] = last_;
  return last_.get();
}

void LayerTree::ForgetCache() {
  cache_.clear();
  kept_ = std::move(last_);
  last_key_.clear();
}

absl::StatusOr<bool> LayerTree::Remove(const Directory& parent, const std::string& name) {
  struct stat st;
  if (fstatat(parent.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return false;
    return sys::ErrnoStatus(errno, absl::StrCat("stat ", Quoted(name)));
  }
  if (S_ISDIR(st.st_mode)) {
    const std::string path = JoinPath(parent.path, name);
    DAVIT_RETURN_IF_ERROR(sys::RemoveTreeAt(parent.fd.get(), name));
    finals_.erase(path);
    EraseBeneath(&finals_, path);
    ForgetCache();
    return true;
  }
  if (unlinkat(parent.fd.get(), name.c_str(), 0) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("remove ", Quoted(name)));
  }
  // Paths that led through the link lead elsewhere now.
  if (S_ISLNK(st.st_mode)) ForgetCache();
  return false;
}

absl::Status LayerTree::Finish() {
  ForgetCache();
  for (const auto& [path, final_state] : finals_) {
    if (!final_state.mtime && !final_state.mode && !final_state.default_acl) continue;
    const sys::UniqueFd fd = OpenBeneath(root_.get(), path, kDirectoryFlags);
    if (!fd.ok()) return sys::ErrnoStatus(errno, absl::StrCat("open ", Quoted(path)));
    if (final_state.default_acl &&
        fsetxattr(fd.get(), "system.posix_acl_default", final_state.default_acl->data(),
                  final_state.default_acl->size(), 0) != 0 &&
        errno != EOPNOTSUPP) {
      return sys::ErrnoStatus(errno, absl::StrCat("set the default ACL of ", Quoted(path)));
    }
    if (final_state.mode && fchmod(fd.get(), *final_state.mode) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("chmod ", Quoted(path)));
    }
    if (!final_state.mtime) continue;
    const timespec times[2] = {final_state.atime.value_or(*final_state.mtime), *final_state.mtime};
    if (futimens(fd.get(), times) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("set the times of ", Quoted(path)));
    }
  }
  return absl::OkStatus();
}

}  // namespace davit::images::unpack
