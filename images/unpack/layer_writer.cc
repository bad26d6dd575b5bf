#include "images/unpack/layer_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "images/unpack/beneath.h"
#include "images/unpack/layer_path.h"
#include "images/unpack/xattr_policy.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

constexpr size_t kMaxWarnings = 32;
constexpr size_t kMaxRecordedXattr = 32 * 1024;  // a record must fit a message
constexpr mode_t kCreateBits = 01777;            // what mkdir and open take from their mode
constexpr int kNewFile = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;

std::string Quoted(absl::string_view path) {
  return absl::StrCat("\"", absl::CEscape(path.substr(0, 200)), "\"");
}

absl::Status Failed(absl::string_view operation, absl::string_view path) {
  const int error = errno;
  return sys::ErrnoStatus(error, absl::StrCat(operation, " ", Quoted(path)));
}

absl::Status Refused(absl::string_view path, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat("tar entry ", Quoted(path), ": ", why));
}

}  // namespace

LayerWriter::LayerWriter(sys::UniqueFd root, const Limits& limits, bool lowest_layer)
    : tree_(std::move(root), limits.max_path_depth),
      pending_(limits.max_records),
      limits_(limits),
      lowest_layer_(lowest_layer) {
  // Children would inherit the group of a set-group-ID directory; ours get theirs last of all.
  struct stat st;
  if (fstat(tree_.root(), &st) == 0 && (st.st_mode & S_ISGID) != 0) {
    fchmod(tree_.root(), st.st_mode & 05777);
  }
}

absl::Status LayerWriter::OnEntry(const TarEntry& entry) {
  entry_ = &entry;
  file_.reset();
  if (++entries_ > limits_.max_entries) {
    return absl::FailedPreconditionError(
        absl::StrCat("the layer has more than ", limits_.max_entries, " entries"));
  }
  if (entry.size > limits_.max_file_bytes - declared_bytes_) {
    return Refused(entry.path, absl::StrCat("the layer's files have more than ",
                                            limits_.max_file_bytes, " bytes"));
  }
  declared_bytes_ += entry.size;
  return Dispatch(entry);
}

absl::Status LayerWriter::Dispatch(const TarEntry& entry) {
  auto clean = CleanLayerPath(entry.path, limits_.max_path_depth);
  if (!clean.ok()) {
    return sys::Annotate(clean.status(), absl::StrCat("tar entry ", Quoted(entry.path)));
  }
  const std::string& path = *clean;
  if (path.empty()) return TakeRoot(entry);
  if (absl::StrContains(path, kWhiteoutPrefix)) {
    DAVIT_ASSIGN_OR_RETURN(const bool taken, TakeMark(path));
    if (taken) return absl::OkStatus();
  }
  if (entry.type == EntryType::kHardLink) return MakeHardLink(entry, path);
  DAVIT_ASSIGN_OR_RETURN(const Directory* parent, tree_.Get(ParentOf(path)));
  const std::string name(NameOf(path));
  switch (entry.type) {
    case EntryType::kFile:
      return MakeFile(entry, *parent, name);
    case EntryType::kDirectory:
      return MakeDirectory(entry, *parent, name);
    case EntryType::kSymlink:
      return MakeSymlink(entry, *parent, name);
    case EntryType::kFifo:
      return MakeFifo(entry, *parent, name);
    case EntryType::kCharDevice:
    case EntryType::kBlockDevice:
      return MakeDevice(entry, *parent, name);
    case EntryType::kHardLink:
      break;
  }
  return absl::InternalError("an entry type that nobody handles");
}

absl::StatusOr<bool> LayerWriter::TakeMark(const std::string& path) {
  const std::vector<absl::string_view> parts = absl::StrSplit(path, '/');
  const absl::string_view name = parts.back();
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    if (absl::StartsWith(parts[i], kWhiteoutMetaPrefix)) return true;  // beneath aufs metadata
    if (absl::StartsWith(parts[i], kWhiteoutPrefix)) {
      return Refused(path, "a whiteout is used as a directory");
    }
  }
  if (!absl::StartsWith(name, kWhiteoutPrefix)) return false;
  const bool opaque = name == kOpaqueMark;
  if (!opaque && absl::StartsWith(name, kWhiteoutMetaPrefix)) return true;  // aufs metadata
  const absl::string_view hidden = name.substr(kWhiteoutPrefix.size());
  if (hidden.empty() || hidden == "." || hidden == "..") {
    return Refused(path, "a whiteout of no name");
  }
  if (lowest_layer_) {
    ++dropped_whiteouts_;
    return true;
  }
  DAVIT_ASSIGN_OR_RETURN(const Directory* parent, tree_.Get(ParentOf(path)));
  if (opaque) {
    DAVIT_RETURN_IF_ERROR(pending_.AddOpaque(parent->path));
  } else {
    DAVIT_RETURN_IF_ERROR(pending_.AddWhiteout(JoinPath(parent->path, hidden)));
  }
  return true;
}

absl::Status LayerWriter::TakeRoot(const TarEntry& entry) {
  if (entry.type != EntryType::kDirectory) {
    return Refused(entry.path, "the layer's root is no directory");
  }
  has_root_entry_ = true;
  pending_.Replaced("");
  return ApplyToDirectory(entry, tree_.root(), "", /*fresh=*/false);
}

absl::Status LayerWriter::MakeRoom(const Directory& parent, const std::string& name) {
  DAVIT_ASSIGN_OR_RETURN(const bool directory, tree_.Remove(parent, name));
  if (directory) pending_.RemovedBeneath(JoinPath(parent.path, name));
  return absl::OkStatus();
}

// Runs `create` (a system call: negative and errno), and once more after removing what was there.
template <typename Create>
absl::Status LayerWriter::CreateReplacing(const Directory& parent, const std::string& name,
                                          Create create) {
  if (create() < 0) {
    if (errno != EEXIST) return Failed("create", JoinPath(parent.path, name));
    DAVIT_RETURN_IF_ERROR(MakeRoom(parent, name));
    if (create() < 0) return Failed("create", JoinPath(parent.path, name));
  }
  pending_.Replaced(JoinPath(parent.path, name));
  ++inodes_;
  return absl::OkStatus();
}

absl::Status LayerWriter::MakeFile(const TarEntry& entry, const Directory& parent,
                                   const std::string& name) {
  int fd = -1;
  DAVIT_RETURN_IF_ERROR(CreateReplacing(parent, name, [&] {
    return fd = openat(parent.fd.get(), name.c_str(), kNewFile, entry.mode & 0777);
  }));
  file_.reset(fd);
  path_ = JoinPath(parent.path, name);
  end_ = 0;
  return absl::OkStatus();
}

absl::Status LayerWriter::OnData(uint64_t offset, absl::string_view data) {
  if (!file_.ok()) return absl::OkStatus();  // of a whiteout
  bytes_ += data.size();
  end_ = offset + data.size();
  while (!data.empty()) {
    const ssize_t n = pwrite(file_.get(), data.data(), data.size(), static_cast<off_t>(offset));
    if (n < 0) {
      if (errno == EINTR) continue;
      return Failed("write", path_);
    }
    data.remove_prefix(static_cast<size_t>(n));
    offset += static_cast<uint64_t>(n);
  }
  return absl::OkStatus();
}

absl::Status LayerWriter::OnEntryEnd() {
  if (!file_.ok()) return absl::OkStatus();
  DAVIT_RETURN_IF_ERROR(FinishFile());
  // NFS and quotas report what they could not store only here.
  if (close(file_.release()) != 0) return Failed("close", path_);
  return absl::OkStatus();
}

absl::Status LayerWriter::FinishFile() {
  const TarEntry& entry = *entry_;
  const int fd = file_.get();
  if (end_ != entry.size && ftruncate(fd, static_cast<off_t>(entry.size)) != 0) {
    return Failed("set the size of", path_);
  }
  // The file was created by and for root with its permission bits: most need nothing more.
  const bool owned = entry.uid != 0 || entry.gid != 0;
  if (owned && fchown(fd, entry.uid, entry.gid) != 0) return Failed("chown", path_);
  if (!entry.xattrs.empty()) DAVIT_RETURN_IF_ERROR(ApplyXattrs(entry, fd, path_, nullptr));
  const bool special = (entry.mode & ~mode_t{0777}) != 0;
  if ((special || !entry.xattrs.empty()) && fchmod(fd, entry.mode) != 0) {
    return Failed("chmod", path_);
  }
  const timespec times[2] = {entry.atime.value_or(entry.mtime), entry.mtime};
  if (futimens(fd, times) != 0) return Failed("set the times of", path_);
  return absl::OkStatus();
}

absl::Status LayerWriter::MakeDirectory(const TarEntry& entry, const Directory& parent,
                                        const std::string& name) {
  const std::string path = JoinPath(parent.path, name);
  bool fresh = true;
  if (mkdirat(parent.fd.get(), name.c_str(), entry.mode & kCreateBits) != 0) {
    if (errno != EEXIST) return Failed("create the directory", path);
    struct stat st;
    if (fstatat(parent.fd.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
      return Failed("stat", path);
    }
    fresh = !S_ISDIR(st.st_mode);
    if (fresh) {
      DAVIT_RETURN_IF_ERROR(MakeRoom(parent, name));
      if (mkdirat(parent.fd.get(), name.c_str(), entry.mode & kCreateBits) != 0) {
        return Failed("create the directory", path);
      }
    }
  }
  pending_.Replaced(path);
  if (fresh) ++inodes_;
  DAVIT_ASSIGN_OR_RETURN(const Directory* directory, tree_.OpenChild(parent, name));
  return ApplyToDirectory(entry, directory->fd.get(), path, fresh);
}

absl::Status LayerWriter::ApplyToDirectory(const TarEntry& entry, int fd, const std::string& path,
                                           bool fresh) {
  const bool owned = entry.uid != 0 || entry.gid != 0;
  if ((owned || !fresh) && fchown(fd, entry.uid, entry.gid) != 0) return Failed("chown", path);
  LayerTree::Final& final_state = tree_.final_state(path);
  final_state = LayerTree::Final{};
  final_state.mtime = entry.mtime;
  final_state.atime = entry.atime;
  if (!entry.xattrs.empty()) DAVIT_RETURN_IF_ERROR(ApplyXattrs(entry, fd, path, &final_state));
  // Children would inherit the group: the bit comes last.
  if ((entry.mode & S_ISGID) != 0) final_state.mode = entry.mode;
  const bool special = (entry.mode & ~kCreateBits) != 0;
  if ((special || !fresh || !entry.xattrs.empty()) &&
      fchmod(fd, entry.mode & ~static_cast<mode_t>(S_ISGID)) != 0) {
    return Failed("chmod", path);
  }
  return absl::OkStatus();
}

absl::Status LayerWriter::MakeSymlink(const TarEntry& entry, const Directory& parent,
                                      const std::string& name) {
  // Where it points is the container's business: it is data here, and never followed by the kernel.
  DAVIT_RETURN_IF_ERROR(CreateReplacing(
      parent, name, [&] { return symlinkat(entry.link.c_str(), parent.fd.get(), name.c_str()); }));
  const std::string path = JoinPath(parent.path, name);
  if ((entry.uid != 0 || entry.gid != 0) &&
      fchownat(parent.fd.get(), name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    return Failed("chown", path);
  }
  if (!entry.xattrs.empty()) DAVIT_RETURN_IF_ERROR(ApplyXattrs(entry, -1, path, nullptr));
  const timespec times[2] = {entry.atime.value_or(entry.mtime), entry.mtime};
  if (utimensat(parent.fd.get(), name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return Failed("set the times of", path);
  }
  return absl::OkStatus();
}

absl::Status LayerWriter::MakeFifo(const TarEntry& entry, const Directory& parent,
                                   const std::string& name) {
  DAVIT_RETURN_IF_ERROR(CreateReplacing(
      parent, name, [&] { return mknodat(parent.fd.get(), name.c_str(), S_IFIFO | 0600, 0); }));
  const std::string path = JoinPath(parent.path, name);
  const int dir = parent.fd.get();
  if ((entry.uid != 0 || entry.gid != 0) &&
      fchownat(dir, name.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) != 0) {
    return Failed("chown", path);
  }
  if (!entry.xattrs.empty()) DAVIT_RETURN_IF_ERROR(ApplyXattrs(entry, -1, path, nullptr));
  // It was made exclusively a moment ago and nobody else is here: the name is the FIFO.
  if (fchmodat(dir, name.c_str(), entry.mode, 0) != 0) return Failed("chmod", path);
  const timespec times[2] = {entry.atime.value_or(entry.mtime), entry.mtime};
  if (utimensat(dir, name.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return Failed("set the times of", path);
  }
  return absl::OkStatus();
}

absl::Status LayerWriter::MakeDevice(const TarEntry& entry, const Directory& parent,
                                     const std::string& name) {
  const std::string path = JoinPath(parent.path, name);
  if (entry.major == 0 && entry.minor == 0) {
    return Refused(path, "a device 0:0, which overlayfs takes for a whiteout");
  }
  DAVIT_RETURN_IF_ERROR(MakeRoom(parent, name));
  pending_.Replaced(path);
  if (!entry.xattrs.empty()) DAVIT_RETURN_IF_ERROR(ApplyXattrs(entry, -1, path, nullptr));
  ++inodes_;
  return pending_.AddDevice(path, entry);
}

absl::Status LayerWriter::MakeHardLink(const TarEntry& entry, const std::string& path) {
  auto clean = CleanLayerPath(entry.link, limits_.max_path_depth);
  if (!clean.ok()) {
    return sys::Annotate(clean.status(), absl::StrCat("tar entry ", Quoted(entry.path),
                                                      ": target of the hard link"));
  }
  if (clean->empty()) return Refused(entry.path, "a hard link to the layer's root");
  DAVIT_ASSIGN_OR_RETURN(const std::string target_parent, tree_.Canonical(ParentOf(*clean)));
  const std::string target_name(NameOf(*clean));
  const std::string target = JoinPath(target_parent, target_name);
  DAVIT_ASSIGN_OR_RETURN(const Directory* parent, tree_.Get(ParentOf(path)));
  const std::string name(NameOf(path));
  const std::string canonical = JoinPath(parent->path, name);
  if (canonical == target) return absl::OkStatus();

  const sys::UniqueFd from = OpenBeneath(tree_.root(), target_parent, O_PATH | O_DIRECTORY);
  struct stat st;
  const bool present =
      from.ok() && fstatat(from.get(), target_name.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0;
  if (!present) {
    // A device that the daemon will make, or a file of a lower layer.
    DAVIT_RETURN_IF_ERROR(MakeRoom(*parent, name));
    pending_.Replaced(canonical);
    return pending_.AddLink(canonical, target);
  }
  if (S_ISDIR(st.st_mode)) return Refused(entry.path, "a hard link to a directory");
  struct stat old;
  if (fstatat(parent->fd.get(), name.c_str(), &old, AT_SYMLINK_NOFOLLOW) == 0) {
    if (old.st_ino == st.st_ino && old.st_dev == st.st_dev) return absl::OkStatus();
    DAVIT_RETURN_IF_ERROR(MakeRoom(*parent, name));
  }
  if (linkat(from.get(), target_name.c_str(), parent->fd.get(), name.c_str(), 0) != 0) {
    return Failed(absl::StrCat("link ", Quoted(target), " to"), canonical);
  }
  pending_.Replaced(canonical);
  return absl::OkStatus();
}

absl::Status LayerWriter::ApplyXattrs(const TarEntry& entry, int fd, const std::string& path,
                                      LayerTree::Final* final_state) {
  uint64_t total = 0;
  for (const auto& [name, value] : entry.xattrs) {
    total += name.size() + value.size();
    if (total > limits_.max_xattr_bytes) {
      return Refused(path, absl::StrCat("its extended attributes have more than ",
                                        limits_.max_xattr_bytes, " bytes"));
    }
    const std::string what = absl::StrCat("extended attribute \"", absl::CEscape(name), "\"");
    switch (ClassifyXattr(name, value, entry.type)) {
      case XattrAction::kStrip:
        continue;
      case XattrAction::kDrop:
        Warn(absl::StrCat(Quoted(path), ": dropped the ", what));
        continue;
      case XattrAction::kRefuse:
        return Refused(path, absl::StrCat("malformed ", what));
      case XattrAction::kRecord:
        if (name.size() + value.size() > kMaxRecordedXattr) {
          Warn(absl::StrCat(Quoted(path), ": dropped the ", what, ", which is too large"));
          continue;
        }
        DAVIT_RETURN_IF_ERROR(pending_.AddTrustedXattr(path, name, value));
        continue;
      case XattrAction::kSet:
        break;
    }
    if (name == "system.posix_acl_default" && final_state != nullptr) {
      final_state->default_acl = value;  // children would inherit it
      continue;
    }
    if (fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) == 0) continue;
    const int error = errno;
    if (name == "security.capability" || (error != EOPNOTSUPP && error != EPERM)) {
      return sys::ErrnoStatus(error, absl::StrCat("set the ", what, " of ", Quoted(path)));
    }
    Warn(absl::StrCat(Quoted(path), ": the file system does not take the ", what));
  }
  return absl::OkStatus();
}

void LayerWriter::Warn(std::string text) {
  if (warnings_.size() < kMaxWarnings) warnings_.push_back(std::move(text));
}

absl::StatusOr<std::vector<PendingRecords::Record>> LayerWriter::Finish() {
  DAVIT_RETURN_IF_ERROR(tree_.Finish());
  return pending_.Collect(tree_);
}

}  // namespace davit::images::unpack
