#include "runtime/cgroup/layout.h"

#include <fcntl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::runtime::cgroup {
namespace {

constexpr size_t kMaxMountinfo = 64 << 20;

// Generic super options and cgroup v1 mount options that are no controllers.
bool IsController(absl::string_view option) {
  static constexpr std::array<absl::string_view, 12> kOthers = {
      "rw",      "ro",           "xattr", "noprefix",       "clone_children",     "seclabel",
      "nodelay", "favordynmods", "none",  "cpuset_v2_mode", "memory_localevents", ""};
  return !absl::StrContains(option, "=") &&
         std::find(kOthers.begin(), kOthers.end(), option) == kOthers.end();
}

// man 5 proc: space, tab, newline and backslash are octal escapes.
std::string Unescape(absl::string_view text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] >= '0' && text[i + 1] <= '3') {
      plain += static_cast<char>(((text[i + 1] - '0') << 6) | ((text[i + 2] - '0') << 3) |
                                 (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

struct MountLine {
  std::string device;
  std::string root;
  Hierarchy hierarchy;
};

// False for a line that is no cgroup mount (or is malformed).
bool ParseMountLine(absl::string_view line, MountLine& mount) {
  const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
  const auto dash = std::find(fields.begin(), fields.end(), "-");
  if (dash - fields.begin() < 6 || fields.end() - dash < 4) return false;
  const absl::string_view type = dash[1];
  if (type != "cgroup" && type != "cgroup2") return false;
  mount.device = std::string(fields[2]);
  mount.root = std::string(fields[3]);
  mount.hierarchy = Hierarchy{};
  mount.hierarchy.mount_point = Unescape(fields[4]);
  mount.hierarchy.is_v2 = type == "cgroup2";
  if (mount.hierarchy.is_v2) return true;
  for (absl::string_view option : absl::StrSplit(dash[3], ',')) {
    if (absl::ConsumePrefix(&option, "name=")) {
      mount.hierarchy.name = std::string(option);
    } else if (IsController(option)) {
      mount.hierarchy.controllers.emplace_back(option);
    }
  }
  std::sort(mount.hierarchy.controllers.begin(), mount.hierarchy.controllers.end());
  return true;
}

}  // namespace

int Layout::Find(absl::string_view controller) const {
  const bool named = absl::ConsumePrefix(&controller, "name=");
  for (size_t i = 0; i < hierarchies.size(); ++i) {
    const Hierarchy& hierarchy = hierarchies[i];
    if (named ? !hierarchy.is_v2 && hierarchy.name == controller
              : std::find(hierarchy.controllers.begin(), hierarchy.controllers.end(), controller) !=
                    hierarchy.controllers.end()) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

int Layout::Unified() const {
  for (size_t i = 0; i < hierarchies.size(); ++i) {
    if (hierarchies[i].is_v2) return static_cast<int>(i);
  }
  return -1;
}

bool Layout::IsPureV2() const {
  return Unified() >= 0 &&
         std::all_of(hierarchies.begin(), hierarchies.end(), [](const Hierarchy& hierarchy) {
           return hierarchy.is_v2 || hierarchy.controllers.empty();
         });
}

std::string Layout::Directory(int hierarchy, absl::string_view group) const {
  return absl::StrCat(hierarchies[static_cast<size_t>(hierarchy)].mount_point, group);
}

absl::StatusOr<Layout> ParseLayout(absl::string_view mountinfo, absl::string_view v2_controllers) {
  std::vector<MountLine> mounts;
  for (absl::string_view line : absl::StrSplit(mountinfo, '\n', absl::SkipEmpty())) {
    MountLine mount;
    if (!ParseMountLine(line, mount)) continue;
    const auto same = std::find_if(mounts.begin(), mounts.end(), [&](const MountLine& other) {
      return other.device == mount.device;
    });
    if (same == mounts.end()) {
      mounts.push_back(std::move(mount));
    } else if (same->root != "/" && mount.root == "/") {
      *same = std::move(mount);
    }
  }
  if (mounts.empty()) {
    return absl::FailedPreconditionError(
        "no cgroup file system is mounted; mount cgroup2 at /sys/fs/cgroup");
  }
  Layout layout;
  for (MountLine& mount : mounts) {
    if (mount.hierarchy.is_v2) {
      mount.hierarchy.controllers =
          absl::StrSplit(absl::StripAsciiWhitespace(v2_controllers), ' ', absl::SkipEmpty());
      std::sort(mount.hierarchy.controllers.begin(), mount.hierarchy.controllers.end());
    }
    layout.hierarchies.push_back(std::move(mount.hierarchy));
  }
  std::sort(layout.hierarchies.begin(), layout.hierarchies.end(),
            [](const Hierarchy& a, const Hierarchy& b) {
              return a.is_v2 != b.is_v2 ? b.is_v2 : a.mount_point < b.mount_point;
            });
  return layout;
}

absl::StatusOr<Layout> DetectLayout() {
  DAVIT_ASSIGN_OR_RETURN(const std::string mountinfo,
                         sys::ReadFileAt(AT_FDCWD, "/proc/self/mountinfo", kMaxMountinfo));
  DAVIT_ASSIGN_OR_RETURN(const Layout first, ParseLayout(mountinfo, ""));
  const int unified = first.Unified();
  if (unified < 0) return first;
  DAVIT_ASSIGN_OR_RETURN(
      const std::string controllers,
      sys::ReadFileAt(AT_FDCWD, first.Directory(unified, "/cgroup.controllers"), 4096));
  return ParseLayout(mountinfo, controllers);
}

absl::StatusOr<std::vector<std::string>> ParseOwnGroups(const Layout& layout,
                                                        absl::string_view proc_cgroup) {
  std::vector<std::string> groups(layout.hierarchies.size(), "/");
  for (absl::string_view line : absl::StrSplit(proc_cgroup, '\n', absl::SkipEmpty())) {
    // "4:memory:/path", "1:name=systemd:/path", "0::/path"; the path may hold colons.
    const std::vector<absl::string_view> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) {
      return absl::InternalError(
          absl::StrCat("read /proc/self/cgroup: unexpected line \"", line, "\""));
    }
    int index = -1;
    if (fields[1].empty()) {
      index = layout.Unified();
    } else {
      const std::vector<absl::string_view> controllers = absl::StrSplit(fields[1], ',');
      index = layout.Find(controllers.front());
    }
    if (index >= 0) groups[static_cast<size_t>(index)] = std::string(fields[2]);
  }
  return groups;
}

absl::StatusOr<std::vector<std::string>> OwnGroups(const Layout& layout) {
  DAVIT_ASSIGN_OR_RETURN(const std::string text,
                         sys::ReadFileAt(AT_FDCWD, "/proc/self/cgroup", 1 << 20));
  return ParseOwnGroups(layout, text);
}

absl::Status CheckGroupPath(absl::string_view group) {
  auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("cgroup path \"", group, "\": ", why));
  };
  if (!absl::StartsWith(group, "/")) return refuse("it does not start with /");
  if (group.size() > 4095) return refuse("it is longer than 4095 bytes");
  if (absl::StrContains(group, absl::string_view("\0", 1))) return refuse("it holds a zero byte");
  for (absl::string_view component : absl::StrSplit(group.substr(1), '/')) {
    if (component.empty() || component == "." || component == "..") {
      return refuse("it has an empty, \".\" or \"..\" component");
    }
    if (component.size() > 255) return refuse("a component is longer than 255 bytes");
    if (absl::StrContains(component, "\n")) return refuse("it holds a newline");
  }
  return absl::OkStatus();
}

}  // namespace davit::runtime::cgroup
