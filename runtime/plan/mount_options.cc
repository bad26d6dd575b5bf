#include "runtime/plan/mount_options.h"

#include <sys/mount.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace davit::runtime::plan {
namespace {

// Not in every libc's header.
constexpr uint64_t kNoSymFollow = 0x00200000;

enum class Kind { kAttribute, kRecursiveAttribute, kPropagation, kSuperblock, kIgnored, kOther };

struct Option {
  absl::string_view name;
  Kind kind;
  uint64_t set = 0;
  uint64_t clear = 0;
};

// The access-time attributes are one field of the kernel's: setting one clears the others.
constexpr uint64_t kAtime = MOUNT_ATTR__ATIME;

constexpr Option kOptions[] = {
    {"ro", Kind::kAttribute, MOUNT_ATTR_RDONLY, 0},
    {"rw", Kind::kAttribute, 0, MOUNT_ATTR_RDONLY},
    {"nosuid", Kind::kAttribute, MOUNT_ATTR_NOSUID, 0},
    {"suid", Kind::kAttribute, 0, MOUNT_ATTR_NOSUID},
    {"nodev", Kind::kAttribute, MOUNT_ATTR_NODEV, 0},
    {"dev", Kind::kAttribute, 0, MOUNT_ATTR_NODEV},
    {"noexec", Kind::kAttribute, MOUNT_ATTR_NOEXEC, 0},
    {"exec", Kind::kAttribute, 0, MOUNT_ATTR_NOEXEC},
    {"nodiratime", Kind::kAttribute, MOUNT_ATTR_NODIRATIME, 0},
    {"diratime", Kind::kAttribute, 0, MOUNT_ATTR_NODIRATIME},
    {"nosymfollow", Kind::kAttribute, kNoSymFollow, 0},
    {"symfollow", Kind::kAttribute, 0, kNoSymFollow},
    {"noatime", Kind::kAttribute, MOUNT_ATTR_NOATIME, kAtime},
    {"atime", Kind::kAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"relatime", Kind::kAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"norelatime", Kind::kAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"strictatime", Kind::kAttribute, MOUNT_ATTR_STRICTATIME, kAtime},
    {"nostrictatime", Kind::kAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"rro", Kind::kRecursiveAttribute, MOUNT_ATTR_RDONLY, 0},
    {"rrw", Kind::kRecursiveAttribute, 0, MOUNT_ATTR_RDONLY},
    {"rnosuid", Kind::kRecursiveAttribute, MOUNT_ATTR_NOSUID, 0},
    {"rsuid", Kind::kRecursiveAttribute, 0, MOUNT_ATTR_NOSUID},
    {"rnodev", Kind::kRecursiveAttribute, MOUNT_ATTR_NODEV, 0},
    {"rdev", Kind::kRecursiveAttribute, 0, MOUNT_ATTR_NODEV},
    {"rnoexec", Kind::kRecursiveAttribute, MOUNT_ATTR_NOEXEC, 0},
    {"rexec", Kind::kRecursiveAttribute, 0, MOUNT_ATTR_NOEXEC},
    {"rnodiratime", Kind::kRecursiveAttribute, MOUNT_ATTR_NODIRATIME, 0},
    {"rdiratime", Kind::kRecursiveAttribute, 0, MOUNT_ATTR_NODIRATIME},
    {"rnosymfollow", Kind::kRecursiveAttribute, kNoSymFollow, 0},
    {"rsymfollow", Kind::kRecursiveAttribute, 0, kNoSymFollow},
    {"rnoatime", Kind::kRecursiveAttribute, MOUNT_ATTR_NOATIME, kAtime},
    {"ratime", Kind::kRecursiveAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"rrelatime", Kind::kRecursiveAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"rnorelatime", Kind::kRecursiveAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"rstrictatime", Kind::kRecursiveAttribute, MOUNT_ATTR_STRICTATIME, kAtime},
    {"rnostrictatime", Kind::kRecursiveAttribute, MOUNT_ATTR_RELATIME, kAtime},
    {"private", Kind::kPropagation, MS_PRIVATE, 0},
    {"slave", Kind::kPropagation, MS_SLAVE, 0},
    {"shared", Kind::kPropagation, MS_SHARED, 0},
    {"unbindable", Kind::kPropagation, MS_UNBINDABLE, 0},
    {"rprivate", Kind::kPropagation, MS_PRIVATE | MS_REC, 0},
    {"rslave", Kind::kPropagation, MS_SLAVE | MS_REC, 0},
    {"rshared", Kind::kPropagation, MS_SHARED | MS_REC, 0},
    {"runbindable", Kind::kPropagation, MS_UNBINDABLE | MS_REC, 0},
    {"sync", Kind::kSuperblock, 0, 0},
    {"async", Kind::kSuperblock, 0, 0},
    {"dirsync", Kind::kSuperblock, 0, 0},
    {"lazytime", Kind::kSuperblock, 0, 0},
    {"nolazytime", Kind::kSuperblock, 0, 0},
    {"mand", Kind::kSuperblock, 0, 0},
    {"nomand", Kind::kSuperblock, 0, 0},
    // Without effect on any file system that a container can mount.
    {"defaults", Kind::kIgnored, 0, 0},
    {"silent", Kind::kIgnored, 0, 0},
    {"loud", Kind::kIgnored, 0, 0},
    {"iversion", Kind::kIgnored, 0, 0},
    {"noiversion", Kind::kIgnored, 0, 0},
    {"bind", Kind::kOther, 0, 0},
    {"rbind", Kind::kOther, 0, 0},
    {"idmap", Kind::kOther, 0, 0},
    {"ridmap", Kind::kOther, 0, 0},
};

void Apply(const Option& option, uint64_t* set, uint64_t* clear) {
  const uint64_t touched = option.set | option.clear;
  *set = (*set & ~touched) | option.set;
  *clear = (*clear & ~touched) | option.clear;
}

}  // namespace

absl::StatusOr<MountOptions> ParseMountOptions(const std::vector<std::string>& options) {
  MountOptions result;
  for (const std::string& name : options) {
    if (name == "remount" || name == "tmpcopyup") {
      return absl::InvalidArgumentError(absl::StrCat("the option ", name, " is not supported"));
    }
    const auto* option = std::find_if(std::begin(kOptions), std::end(kOptions),
                                      [&](const Option& o) { return o.name == name; });
    if (option == std::end(kOptions)) {
      result.filesystem.push_back(name);
      continue;
    }
    switch (option->kind) {
      case Kind::kAttribute:
        Apply(*option, &result.set, &result.clear);
        break;
      case Kind::kRecursiveAttribute:
        Apply(*option, &result.recursive_set, &result.recursive_clear);
        break;
      case Kind::kPropagation:
        result.propagation = option->set;
        break;
      case Kind::kSuperblock:
        result.filesystem.push_back(name);
        break;
      case Kind::kIgnored:
        break;
      case Kind::kOther:
        if (name == "bind" || name == "rbind") result.bind = true;
        if (name == "rbind") result.recursive = true;
        if (name == "idmap") result.idmap = true;
        if (name == "ridmap") result.recursive_idmap = true;
        break;
    }
  }
  return result;
}

std::vector<std::string> KnownMountOptions() {
  std::vector<std::string> names;
  for (const Option& option : kOptions) names.emplace_back(option.name);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace davit::runtime::plan
