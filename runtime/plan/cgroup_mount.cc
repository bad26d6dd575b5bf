#include <sys/mount.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/plan/context.h"
#include "runtime/plan/mount_options.h"

namespace davit::runtime::plan {
namespace {

// The mount of one hierarchy, as the container sees it: rooted at its own group. With a cgroup
// namespace a fresh mount is; without one, a clone of the group's directory.
int32_t Hierarchy(Context& context, size_t index, const MountOptions& options) {
  const CgroupDirectory& group = context.inputs.cgroups[index];
  Builder& builder = context.builder;
  const int32_t slot = builder.NewSlot();
  if (context.Use(spec::NamespaceType::kCgroup) == NamespaceUse::kHost) {
    Op& op = builder.Parent(Code::kOpenBind);
    op.b = slot;
    op.s = builder.String(group.path);
    op.x = options.set;
    op.propagation = MS_PRIVATE | MS_REC;
    return slot;
  }
  std::vector<std::string> data;
  if (!group.unified) {
    if (!group.named.empty()) {
      data.push_back(absl::StrCat("name=", group.named));
    } else {
      data = group.controllers;
    }
  }
  Op& op = builder.Child(Code::kNewMount);
  op.b = slot;
  op.s = builder.String(group.unified ? "cgroup2" : "cgroup");
  op.t = builder.List(data);
  op.u = builder.String("cgroup");
  op.x = options.set;
  return slot;
}

void Attach(Context& context, int32_t slot, int32_t base, const std::string& path, uint16_t flags) {
  Op& op = context.builder.Child(Code::kAttachMount);
  op.a = slot;
  op.b = base;
  op.s = context.builder.String(path);
  op.flags = static_cast<uint16_t>(kDirectory | flags);
}

}  // namespace

absl::Status CompileCgroupMount(Context& context, const std::string& destination,
                                const spec::Mount& mount) {
  absl::StatusOr<MountOptions> options = ParseMountOptions(mount.options);
  if (!options.ok()) return options.status();
  const std::vector<CgroupDirectory>& groups = context.inputs.cgroups;
  Builder& builder = context.builder;
  const bool has_v1 = std::any_of(groups.begin(), groups.end(),
                                  [](const CgroupDirectory& group) { return !group.unified; });
  if (!has_v1) {
    if (groups.empty()) {
      Op& op = builder.Child(Code::kNewMount);
      op.b = builder.NewSlot();
      op.s = builder.String("cgroup2");
      op.u = builder.String("cgroup");
      op.x = options->set;
      Attach(context, op.b, -1, destination, 0);
    } else {
      Attach(context, Hierarchy(context, 0, *options), -1, destination, 0);
    }
    return absl::OkStatus();
  }

  // A small tmpfs with a directory for each hierarchy, as hosts have it.
  const int32_t tree = builder.NewSlot();
  Op& make = builder.Child(Code::kNewMount);
  make.b = tree;
  make.s = builder.String("tmpfs");
  make.t = builder.List({"mode=755"});
  make.u = builder.String("tmpfs");
  make.x = options->set & ~static_cast<uint64_t>(MOUNT_ATTR_RDONLY);
  for (const CgroupDirectory& group : groups) {
    if (group.mount_name.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("the group ", group.path, " has no name"));
    }
    Op& directory = builder.Child(Code::kMakeDirectory);
    directory.a = tree;
    directory.s = builder.String(group.mount_name);
    directory.x = 0755;
    if (group.unified) continue;  // its controllers are not directories here
    for (const std::string& controller : group.controllers) {
      if (controller == group.mount_name) continue;
      Op& link = builder.Child(Code::kMakeSymlink);
      link.a = tree;
      link.s = builder.String(controller);
      link.t = builder.String(group.mount_name);
    }
  }
  Attach(context, tree, -1, destination, kKeepSlot);
  for (size_t i = 0; i < groups.size(); ++i) {
    Attach(context, Hierarchy(context, i, *options), tree, groups[i].mount_name, 0);
  }
  if ((options->set & MOUNT_ATTR_RDONLY) != 0) {
    Op& op = builder.Child(Code::kSetAttributes);
    op.a = tree;
    op.x = MOUNT_ATTR_RDONLY;
  }
  return absl::OkStatus();
}

}  // namespace davit::runtime::plan
