#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/plan/context.h"

namespace davit::runtime::plan {

absl::Status CheckGroups(const std::vector<CgroupDirectory>& groups) {
  int unified = 0;
  for (const CgroupDirectory& group : groups) {
    unified += group.unified ? 1 : 0;
    if (!absl::StartsWith(group.path, "/") || CleanPath(group.path) != group.path) {
      return absl::InvalidArgumentError(
          absl::StrCat("cgroups: ", group.path, " is not a clean absolute path"));
    }
    for (const CgroupWrite& write : group.writes) {
      if (write.file.empty() || write.file[0] == '.' || absl::StrContains(write.file, "/")) {
        return absl::InvalidArgumentError(
            absl::StrCat("cgroups: ", write.file, " is not the name of a cgroup file"));
      }
    }
  }
  if (unified > 1) return absl::InvalidArgumentError("cgroups: two unified groups");
  return absl::OkStatus();
}

void EnterCgroups(Builder& builder, const std::vector<CgroupDirectory>& groups,
                  const std::vector<int32_t>& slots) {
  for (size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].unified) continue;
    Op& open = builder.Parent(Code::kOpenForWrite);
    const int32_t slot = builder.NewSlot();
    open.a = slots[i];
    open.b = slot;
    open.s = builder.String("tasks");
    Op& enter = builder.Child(Code::kEnterCgroup);
    enter.a = slot;
    enter.s = builder.String(groups[i].path);
  }
}

}  // namespace davit::runtime::plan
