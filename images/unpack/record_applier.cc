#include "images/unpack/record_applier.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "images/unpack/beneath.h"
#include "images/unpack/layer_path.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

constexpr uint32_t kMaxMajor = 0xfff;
constexpr uint32_t kMaxMinor = 0xfffff;
constexpr uint32_t kNoId = 0xffffffff;

absl::Status Refused(absl::string_view path, absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(
      "davit-unpack's record for \"", absl::CEscape(path.substr(0, 200)), "\" is refused: ", why));
}

absl::Status Failed(absl::string_view operation, absl::string_view path) {
  const int error = errno;
  return sys::ErrnoStatus(error,
                          absl::StrCat(operation, " \"", absl::CEscape(path.substr(0, 200)), "\""));
}

// A path as the helper may name it: clean, and with none of a layer's marks in it.
absl::Status CheckPath(absl::string_view path, uint32_t max_depth, bool may_be_root) {
  if (path.empty() && !may_be_root) return Refused(path, "it names the root");
  if (absl::Status clean = CheckCleanPath(path, max_depth); !clean.ok()) {
    return Refused(path, clean.message());
  }
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (absl::StartsWith(part, kWhiteoutPrefix)) return Refused(path, "a whiteout's name");
  }
  return absl::OkStatus();
}

bool IsDevice(const ::davit::unpack::v1::Record& record) {
  return record.kind() == ::davit::unpack::v1::Record::CHARACTER_DEVICE ||
         record.kind() == ::davit::unpack::v1::Record::BLOCK_DEVICE;
}

}  // namespace

absl::Status RecordApplier::Check(const Record& record) const {
  const bool may_be_root =
      record.kind() == Record::OPAQUE || record.kind() == Record::TRUSTED_XATTR;
  DAVIT_RETURN_IF_ERROR(CheckPath(record.path(), limits_.max_path_depth, may_be_root));
  const bool has_target =
      record.kind() == Record::DEVICE_LINK || record.kind() == Record::LOWER_LINK;
  if (has_target) {
    DAVIT_RETURN_IF_ERROR(CheckPath(record.target(), limits_.max_path_depth, false));
  }
  if (IsDevice(record)) {
    if (record.device_major() == 0 && record.device_minor() == 0)
      return Refused(record.path(), "a device 0:0");
    if (record.device_major() > kMaxMajor || record.device_minor() > kMaxMinor ||
        record.mode() > 07777 || record.uid() == kNoId || record.gid() == kNoId ||
        record.mtime_nanoseconds() > 999'999'999) {
      return Refused(record.path(), "an attribute is out of range");
    }
  }
  if (record.kind() == Record::TRUSTED_XATTR) {
    const absl::string_view name = record.name();
    if (!absl::StartsWith(name, "trusted.") || absl::StartsWith(name, "trusted.overlay.") ||
        name.size() > kMaxLayerName || name.find('\0') != absl::string_view::npos) {
      return Refused(record.path(), "the name of an extended attribute");
    }
  }
  return absl::OkStatus();
}

absl::Status RecordApplier::Apply(const Record& record) {
  DAVIT_RETURN_IF_ERROR(Check(record));
  switch (record.kind()) {
    case Record::WHITEOUT:
      return MakeWhiteout(record);
    case Record::OPAQUE:
      return MarkOpaque(record);
    case Record::CHARACTER_DEVICE:
    case Record::BLOCK_DEVICE:
      return MakeDevice(record);
    case Record::DEVICE_LINK:
      return LinkDevice(record);
    case Record::TRUSTED_XATTR:
      return SetXattr(record);
    case Record::IMPLICIT_PARENT:
      fix_ups_.implicit_parents.push_back(record.path());
      return absl::OkStatus();
    case Record::LOWER_LINK:
      fix_ups_.hard_links.push_back({record.path(), record.target()});
      return absl::OkStatus();
    default:
      return Refused(record.path(), "an unknown kind");
  }
}

template <typename Make>
absl::Status RecordApplier::InParent(absl::string_view path, absl::string_view what, Make make) {
  const sys::UniqueFd parent =
      OpenBeneath(staging_fd_, ParentOf(path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!parent.ok()) {
    if (errno == ELOOP || errno == ENOTDIR || errno == ENOENT || errno == EXDEV) {
      return Refused(path, "its parent is no directory of the layer");
    }
    return Failed("open the parent of", path);
  }
  struct stat before;
  if (fstat(parent.get(), &before) != 0) return Failed("stat the parent of", path);
  const std::string name(NameOf(path));
  if (make(parent.get(), name.c_str()) != 0) {
    if (errno == EEXIST) return Refused(path, "something is there already");
    return Failed(what, path);
  }
  // The directory's time is part of the layer and has been set.
  const timespec times[2] = {before.st_atim, before.st_mtim};
  if (futimens(parent.get(), times) != 0) return Failed("set the times of the parent of", path);
  return absl::OkStatus();
}

absl::Status RecordApplier::MakeWhiteout(const Record& record) {
  DAVIT_RETURN_IF_ERROR(InParent(record.path(), "make the whiteout", [](int dir, const char* name) {
    return mknodat(dir, name, S_IFCHR, makedev(0, 0));
  }));
  ++inodes_;
  return absl::OkStatus();
}

absl::Status RecordApplier::MarkOpaque(const Record& record) {
  if (record.path().empty()) {
    opaque_root_ = true;
    return absl::OkStatus();
  }
  const sys::UniqueFd dir =
      OpenBeneath(staging_fd_, record.path(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!dir.ok()) return Refused(record.path(), "it is no directory of the layer");
  if (fsetxattr(dir.get(), "trusted.overlay.opaque", "y", 1, 0) != 0) {
    return Failed("mark opaque", record.path());
  }
  return absl::OkStatus();
}

absl::Status RecordApplier::MakeDevice(const Record& record) {
  const mode_t type = record.kind() == Record::CHARACTER_DEVICE ? S_IFCHR : S_IFBLK;
  return InParent(record.path(), "make the device", [&](int dir, const char* name) {
    if (mknodat(dir, name, type | 0600, makedev(record.device_major(), record.device_minor())) != 0)
      return -1;
    // It did not exist before, and nobody but us changes this tree: the name is the node.
    const timespec time{record.mtime_seconds(), record.mtime_nanoseconds()};
    const timespec times[2] = {time, time};
    if (fchownat(dir, name, record.uid(), record.gid(), AT_SYMLINK_NOFOLLOW) != 0 ||
        fchmodat(dir, name, record.mode(), 0) != 0 ||
        utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) != 0) {
      return -1;
    }
    return 0;
  });
}

absl::Status RecordApplier::LinkDevice(const Record& record) {
  const sys::UniqueFd from =
      OpenBeneath(staging_fd_, ParentOf(record.target()), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  const std::string target(NameOf(record.target()));
  struct stat st;
  if (!from.ok() || fstatat(from.get(), target.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
      (!S_ISCHR(st.st_mode) && !S_ISBLK(st.st_mode)) || st.st_rdev == makedev(0, 0)) {
    return Refused(record.path(), "its target is no device of the layer");
  }
  return InParent(record.path(), "link the device", [&](int dir, const char* name) {
    return linkat(from.get(), target.c_str(), dir, name, 0);
  });
}

absl::Status RecordApplier::SetXattr(const Record& record) {
  // Only a name until its type is known: merely opening a device can have effects.
  const sys::UniqueFd fd = OpenBeneath(staging_fd_, record.path(), O_PATH | O_NOFOLLOW);
  struct stat st;
  if (!fd.ok() || fstat(fd.get(), &st) != 0 || (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))) {
    return Refused(record.path(), "it is no file or directory of the layer");
  }
  const std::string name = absl::StrCat("/proc/self/fd/", fd.get());
  if (setxattr(name.c_str(), record.name().c_str(), record.value().data(), record.value().size(),
               0) != 0 &&
      errno != EOPNOTSUPP) {
    return Failed("set an extended attribute of", record.path());
  }
  return absl::OkStatus();
}

}  // namespace davit::images::unpack
