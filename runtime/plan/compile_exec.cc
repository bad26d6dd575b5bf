#include <linux/sched.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/plan/builder.h"
#include "runtime/plan/compile.h"
#include "runtime/plan/context.h"
#include "runtime/plan/plan.h"
#include "runtime/spec/id_mapping.h"
#include "runtime/sys/errno.h"

namespace davit::runtime::plan {

using spec::NamespaceType;

absl::StatusOr<CompiledPlan> CompileExec(const spec::Process& process, const ExecInputs& inputs) {
  CompiledPlan result;
  Builder builder(Kind::kExec);
  DAVIT_RETURN_IF_ERROR(CheckGroups(inputs.cgroups));
  std::vector<int32_t> slots;
  for (const CgroupDirectory& group : inputs.cgroups) {
    const bool leaf = group.unified && !inputs.exec_leaf.empty();
    if (leaf && (inputs.exec_leaf[0] == '.' || absl::StrContains(inputs.exec_leaf, "/"))) {
      return absl::InvalidArgumentError("exec_leaf is not a name");
    }
    Op& make = builder.Parent(Code::kMakeCgroup);
    const int32_t slot = builder.NewSlot();
    make.b = slot;
    make.s = builder.String(leaf ? absl::StrCat(group.path, "/", inputs.exec_leaf) : group.path);
    make.x = 0755;
    // The container's own groups must be there: joining what was removed would be an escape.
    make.flags = leaf ? kExistingParent : kExisting;
    slots.push_back(slot);
    if (group.unified) builder.header().clone_cgroup = slot;
  }
  ProcessInputs common;
  common.kind = Kind::kExec;
  common.features = &inputs.features;
  common.capability_ceiling = inputs.capability_ceiling;
  common.oom_score_adj_floor = inputs.oom_score_adj_floor;
  common.rlimit_ceiling = &inputs.rlimit_ceiling;
  common.has_seccomp = inputs.has_seccomp;
  common.seccomp_flags = inputs.seccomp_flags;
  common.user_namespace = inputs.join.count(NamespaceType::kUser) != 0;
  if (inputs.session_keyring) common.keyring = absl::StrCat("_ses.", inputs.container_id);
  common.host_uid = common.user_namespace
                        ? spec::HostId(inputs.uid_mappings, process.user.uid).value_or(UINT32_MAX)
                        : process.user.uid;
  DAVIT_RETURN_IF_ERROR(CompileProcessBegin(builder, process, common, result));
  EnterCgroups(builder, inputs.cgroups, slots);
  if (inputs.join_pid_namespace) builder.header().pid_namespace = kTarget;
  Op& join = builder.Child(Code::kJoinNamespaces);
  join.a = kTarget;
  for (const NamespaceType type : inputs.join) join.x |= CloneFlag(type);
  join.x &= ~static_cast<uint64_t>(CLONE_NEWPID);
  if (common.user_namespace) builder.Child(Code::kBecomeRoot);
  if (process.terminal) {
    Op& op = builder.Child(Code::kConsole);
    op.x = process.console_size.has_value() ? process.console_size->height : 0;
    op.y = process.console_size.has_value() ? process.console_size->width : 0;
    op.z = process.user.uid;
  }
  DAVIT_RETURN_IF_ERROR(CompileProcessEnd(builder, process, common, result));
  result.blob = builder.Finish();
  if (const char* error = Validate(
          {reinterpret_cast<const unsigned char*>(result.blob.data()), result.blob.size()})) {
    return absl::InvalidArgumentError(absl::StrCat("the process is too large: ", error));
  }
  return result;
}

}  // namespace davit::runtime::plan
