#ifndef DAVIT_RUNTIME_CGROUP_LAYOUT_H_
#define DAVIT_RUNTIME_CGROUP_LAYOUT_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Which cgroup hierarchies this machine has (man 7 cgroups): all of v2 ("unified"), all of v1, or
// the hybrid of both.
namespace davit::runtime::cgroup {

// One mounted hierarchy.
struct Hierarchy {
  std::string mount_point;               // "/sys/fs/cgroup/memory"
  std::vector<std::string> controllers;  // sorted; those that v2 has at its root
  bool is_v2 = false;
  std::string name;  // of a named v1 hierarchy ("systemd"), else ""
};

// A plain value, immutable in use. Group paths are absolute within each hierarchy: the group
// "/davit/pod/container" is the directory mount_point + path in every one of them.
struct Layout {
  // v1 hierarchies in the order of their mount points, then the v2 one.
  std::vector<Hierarchy> hierarchies;

  // The hierarchy that holds a controller ("memory"), or the named one ("name=systemd"); -1: none.
  // A controller that v1 holds is not one of v2's.
  int Find(absl::string_view controller) const;
  // The v2 hierarchy, with or without controllers; -1: none.
  int Unified() const;
  // True where v2 holds the resource controllers and there is no v1 hierarchy (but named ones).
  bool IsPureV2() const;
  // Host path of a group in one hierarchy.
  std::string Directory(int hierarchy, absl::string_view group) const;
};

// Reads /proc/self/mountinfo. A hierarchy that is mounted more than once counts once, at its
// first mount that shows the whole of it. FailedPrecondition where no hierarchy is mounted.
absl::StatusOr<Layout> DetectLayout();

// The pure part of DetectLayout: `mountinfo` as man 5 proc describes it, `v2_controllers` what the
// v2 root's cgroup.controllers holds.
absl::StatusOr<Layout> ParseLayout(absl::string_view mountinfo, absl::string_view v2_controllers);

// The calling process's group in each hierarchy, by index of `layout` (/proc/self/cgroup).
absl::StatusOr<std::vector<std::string>> OwnGroups(const Layout& layout);
absl::StatusOr<std::vector<std::string>> ParseOwnGroups(const Layout& layout,
                                                        absl::string_view proc_cgroup);

// OK for a path that may name a group of ours: absolute, not the root, without empty, "." or ".."
// components, at most 4095 bytes. InvalidArgument otherwise.
absl::Status CheckGroupPath(absl::string_view group);

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_LAYOUT_H_
