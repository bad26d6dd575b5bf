#include "runtime/plan/compile.h"

#include <linux/sched.h>
#include <sys/mount.h>

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "runtime/plan/builder.h"
#include "runtime/plan/context.h"
#include "runtime/plan/plan.h"
#include "runtime/spec/id_mapping.h"
#include "runtime/sys/errno.h"

namespace davit::runtime::plan {
namespace {

using spec::NamespaceType;

const spec::Namespace* FindNamespace(const spec::Spec& spec, NamespaceType type) {
  for (const spec::Namespace& ns : spec.linux_.namespaces) {
    if (ns.type == type) return &ns;
  }
  return nullptr;
}

// The groups with their limits, written while they are empty; then the way in: by birth for the
// unified one, by `tasks` for v1 ones (a write to cgroup.procs waits for an RCU grace period on an
// idle machine).
void MakeCgroups(Context& context) {
  Builder& builder = context.builder;
  for (const CgroupDirectory& group : context.inputs.cgroups) {
    Op& make = builder.Parent(Code::kMakeCgroup);
    const int32_t slot = builder.NewSlot();
    make.b = slot;
    make.s = builder.String(group.path);
    make.x = 0755;
    if (group.may_exist) make.flags |= kMayExist;
    context.cgroup_slots.push_back(slot);
    for (const CgroupWrite& write : group.writes) {
      Op& op = builder.Parent(Code::kWriteFile);
      op.a = slot;
      op.s = builder.String(write.file);
      op.t = builder.String(write.value);
      op.x = write.flags;
    }
    if (!group.device_program.empty()) {
      Op& op = builder.Parent(Code::kAttachDeviceProgram);
      op.a = slot;
      op.s = builder.String(group.device_program);
    }
    if (group.unified) builder.header().clone_cgroup = slot;
  }
}

class CreateCompiler {
 public:
  CreateCompiler(const spec::Spec& spec, const CreateInputs& inputs)
      : inputs_(inputs),
        spec_(spec),
        builder_(Kind::kContainer),
        context_{.spec = spec, .inputs = inputs, .builder = builder_, .result = result_} {}

  absl::StatusOr<CompiledPlan> Run() {
    DAVIT_RETURN_IF_ERROR(Check());
    DAVIT_RETURN_IF_ERROR(UserNamespace());
    MakeCgroups(context_);
    DAVIT_RETURN_IF_ERROR(Rootfs());
    const ProcessInputs process = Process();
    DAVIT_RETURN_IF_ERROR(CompileProcessBegin(builder_, *spec_.process, process, result_));
    EnterCgroups(builder_, inputs_.cgroups, context_.cgroup_slots);
    DAVIT_RETURN_IF_ERROR(Namespaces());
    AttachRootfs();
    DAVIT_RETURN_IF_ERROR(CompileMounts(context_));
    Names();
    DAVIT_RETURN_IF_ERROR(CompileSysctls(context_));
    WorkingDirectory();
    MasksAndReadonly();
    ChangeRoot();
    DAVIT_RETURN_IF_ERROR(CompileProcessEnd(builder_, *spec_.process, process, result_));
    for (const Op& op : context_.deferred) builder_.Parent(op.code) = op;
    result_.blob = builder_.Finish();
    if (const char* error = Validate(
            {reinterpret_cast<const unsigned char*>(result_.blob.data()), result_.blob.size()})) {
      return absl::InvalidArgumentError(absl::StrCat("the specification is too large: ", error));
    }
    return std::move(result_);
  }

 private:
  absl::Status Check() {
    if (!spec_.process.has_value()) return absl::InvalidArgumentError("process is missing");
    const spec::Namespace* mount = FindNamespace(spec_, NamespaceType::kMount);
    if (mount == nullptr || !mount->path.empty()) {
      return absl::InvalidArgumentError("linux.namespaces: a new mount namespace is required");
    }
    if (FindNamespace(spec_, NamespaceType::kTime) != nullptr) {
      return absl::UnimplementedError("linux.namespaces: time namespaces are not supported");
    }
    if (!spec_.linux_.mount_label.empty()) {
      return absl::FailedPreconditionError("linux.mountLabel: SELinux is not available");
    }
    if (!spec_.hostname.empty() && context_.Use(NamespaceType::kUts) == NamespaceUse::kHost) {
      return absl::InvalidArgumentError("hostname needs a UTS namespace");
    }
    if (!spec_.domainname.empty() && context_.Use(NamespaceType::kUts) == NamespaceUse::kHost) {
      return absl::InvalidArgumentError("domainname needs a UTS namespace");
    }
    return CheckGroups(inputs_.cgroups);
  }

  absl::Status UserNamespace() {
    const spec::Namespace* user = FindNamespace(spec_, NamespaceType::kUser);
    if (inputs_.join_user_namespace) {
      context_.user_namespace_slot = kUserNamespace;
    } else if (user != nullptr) {
      const int32_t slot = builder_.NewSlot();
      if (user->path.empty()) {
        if (spec_.linux_.uid_mappings.empty() || spec_.linux_.gid_mappings.empty()) {
          return absl::InvalidArgumentError(
              "linux: a user namespace needs uidMappings and gidMappings");
        }
        Op& op = builder_.Parent(Code::kMakeUserNamespace);
        op.b = slot;
        op.s = builder_.String(spec::MapText(spec_.linux_.uid_mappings));
        op.t = builder_.String(spec::MapText(spec_.linux_.gid_mappings));
      } else {
        OpenNamespace(*user, slot);
      }
      context_.user_namespace_slot = slot;
    }
    context_.user_namespace = context_.user_namespace_slot >= 0;
    return absl::OkStatus();
  }

  void OpenNamespace(const spec::Namespace& ns, int32_t slot) {
    Op& op = builder_.Parent(Code::kOpenNamespace);
    op.b = slot;
    op.s = builder_.String(ns.path);
    op.x = CloneFlag(ns.type);
  }

  absl::Status Rootfs() {
    rootfs_ = builder_.NewSlot();
    if (!inputs_.overlay.has_value()) {
      if (spec_.root.path.empty()) return absl::InvalidArgumentError("root.path is missing");
      Op& op = builder_.Parent(Code::kOpenBind);
      op.b = rootfs_;
      op.s = builder_.String(spec_.root.path[0] == '/'
                                 ? spec_.root.path
                                 : absl::StrCat(inputs_.bundle_dir, "/", spec_.root.path));
      op.flags = kRecursive | kDirectory;
      op.propagation = MS_PRIVATE | MS_REC;
      KeepClone();
      return absl::OkStatus();
    }
    const OverlayRootfs& overlay = *inputs_.overlay;
    for (const std::vector<std::string>& list :
         {overlay.lower_dirs, {overlay.upper_dir}, {overlay.work_dir}}) {
      for (const std::string& path : list) {
        if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos) {
          return absl::InvalidArgumentError("overlay: every directory must be absolute");
        }
      }
    }
    if (overlay.lower_dirs.empty()) return absl::InvalidArgumentError("overlay: no layers");
    if (!inputs_.features.overlay_lowerdir_append) return OldOverlay(overlay);
    Op& op = builder_.Parent(Code::kMakeOverlay);
    op.b = rootfs_;
    op.c = overlay.idmap_lower ? context_.user_namespace_slot : -1;
    op.s = builder_.List(overlay.lower_dirs);
    op.t = builder_.String(overlay.upper_dir);
    op.u = builder_.String(overlay.work_dir);
    if (overlay.volatile_upper) op.flags |= kVolatile;
    if (context_.user_namespace && !spec_.linux_.uid_mappings.empty()) {
      // The rootfs' own directory belongs to the container's root.
      op.x = spec::HostId(spec_.linux_.uid_mappings, 0).value_or(UINT32_MAX);
      op.y = spec::HostId(spec_.linux_.gid_mappings, 0).value_or(UINT32_MAX);
    }
    KeepClone();
    return absl::OkStatus();
  }

  // Below 6.15 a detached mount cannot be cloned: there the container hands a clone over itself.
  void KeepClone() {
    if (!inputs_.rootfs_clone) return;
    if (!inputs_.features.clone_detached_mount) {
      hand_rootfs_ = true;
      return;
    }
    Op& op = builder_.Parent(Code::kCloneMount);
    op.a = rootfs_;
    op.b = builder_.NewSlot();
    builder_.header().rootfs_clone = op.b;
  }

  absl::Status OldOverlay(const OverlayRootfs& overlay) {
    if (context_.user_namespace) {
      return absl::UnimplementedError("user namespaces with an overlay rootfs need Linux 6.7");
    }
    const auto parent = [](const std::string& path) { return path.substr(0, path.rfind('/')); };
    const auto name = [](const std::string& path) { return path.substr(path.rfind('/') + 1); };
    if (parent(overlay.upper_dir) != parent(overlay.work_dir)) {
      return absl::InvalidArgumentError("overlay: upper and work must share their parent");
    }
    for (const std::string& path : {overlay.upper_dir, overlay.work_dir}) {
      Op& op = builder_.Parent(Code::kMakeHostDirectory);
      op.s = builder_.String(path);
      op.x = 0755;
    }
    const auto open = [&](const std::string& path) {
      Op& op = builder_.Parent(Code::kOpenBind);
      op.b = builder_.NewSlot();
      op.s = builder_.String(path);
      op.propagation = MS_PRIVATE;
      return op.b;
    };
    old_overlay_first_ = open(overlay.lower_dirs[0]);
    for (size_t i = 1; i < overlay.lower_dirs.size(); ++i) open(overlay.lower_dirs[i]);
    old_overlay_upper_ = open(parent(overlay.upper_dir));
    old_upper_name_ = name(overlay.upper_dir);
    old_work_name_ = name(overlay.work_dir);
    hand_rootfs_ = inputs_.rootfs_clone;
    return absl::OkStatus();
  }

  ProcessInputs Process() const {
    const spec::User& user = spec_.process->user;
    ProcessInputs process;
    process.kind = Kind::kContainer;
    process.features = &inputs_.features;
    process.capability_ceiling = inputs_.capability_ceiling;
    process.oom_score_adj_floor = inputs_.oom_score_adj_floor;
    process.rlimit_ceiling = &inputs_.rlimit_ceiling;
    process.has_seccomp = inputs_.has_seccomp;
    process.seccomp_flags = inputs_.seccomp_flags;
    process.user_namespace = context_.user_namespace;
    if (inputs_.session_keyring) process.keyring = absl::StrCat("_ses.", inputs_.container_id);
    process.host_uid = context_.user_namespace
                           ? spec::HostId(spec_.linux_.uid_mappings, user.uid).value_or(UINT32_MAX)
                           : user.uid;
    return process;
  }

  // Joins and makes namespaces. New pid, network, IPC and UTS namespaces come with the process;
  // those of mounts and cgroups are made by it, when it is in the right place.
  absl::Status Namespaces() {
    uint64_t with_process = 0;
    std::vector<std::pair<int32_t, uint64_t>> joins;
    for (const spec::Namespace& ns : spec_.linux_.namespaces) {
      const NamespaceUse use = context_.Use(ns.type);
      if (ns.type == NamespaceType::kMount || ns.type == NamespaceType::kUser) continue;
      if (use == NamespaceUse::kNew && ns.type != NamespaceType::kCgroup) {
        with_process |= CloneFlag(ns.type);
      }
      if (use != NamespaceUse::kJoined || ns.path.empty()) continue;
      if (ns.type == NamespaceType::kPid && inputs_.join_pid_namespace) continue;
      const int32_t slot = builder_.NewSlot();
      OpenNamespace(ns, slot);
      if (ns.type == NamespaceType::kPid) {
        builder_.header().pid_namespace = slot;
      } else {
        joins.emplace_back(slot, CloneFlag(ns.type));
      }
    }
    if (inputs_.join_pid_namespace) builder_.header().pid_namespace = kPidNamespace;

    if (context_.user_namespace) {
      Join(context_.user_namespace_slot, CLONE_NEWUSER);
      builder_.Child(Code::kBecomeRoot);
      if (with_process != 0 && builder_.header().pid_namespace >= 0) {
        // Born again inside another pid namespace, its id could not be told to the creator.
        return absl::UnimplementedError(
            "linux.namespaces: a joined pid namespace beside new ones in a user namespace");
      }
      if (with_process != 0) {
        builder_.Child(Code::kCloneAgain).x = with_process;
        builder_.header().clones_again = 1;
      }
    } else {
      builder_.header().clone_flags = with_process;
    }
    for (const auto& [slot, flag] : joins) Join(slot, flag);
    if (inputs_.join_pod_mount_namespace) Join(kPodMountNamespace, CLONE_NEWNS);
    uint64_t later = CLONE_NEWNS;
    if (context_.Use(NamespaceType::kCgroup) == NamespaceUse::kNew) later |= CLONE_NEWCGROUP;
    builder_.Child(Code::kNewNamespaces).x = later;
    if ((with_process & CLONE_NEWNET) != 0) builder_.Child(Code::kLoopbackUp);
    return absl::OkStatus();
  }

  void Join(int32_t slot, uint64_t flag) {
    Op& op = builder_.Child(Code::kJoinNamespaces);
    op.a = slot;
    op.x = flag;
  }

  void AttachRootfs() {
    builder_.Child(Code::kPrivateMounts);
    if (old_overlay_first_ >= 0) {
      Op& op = builder_.Child(Code::kMountOverlay);
      op.a = old_overlay_first_;
      op.b = rootfs_;
      op.c = old_overlay_upper_;
      op.s = builder_.String(old_upper_name_);
      op.t = builder_.String(old_work_name_);
      op.x = inputs_.overlay->lower_dirs.size();
      if (inputs_.overlay->volatile_upper) op.flags |= kVolatile;
    }
    builder_.Child(Code::kAttachRootfs).a = rootfs_;
    if (hand_rootfs_) builder_.Child(Code::kHandRootfs);
  }

  void Names() {
    if (!spec_.hostname.empty()) {
      builder_.Child(Code::kHostname).s = builder_.String(spec_.hostname);
    }
    if (!spec_.domainname.empty()) {
      builder_.Child(Code::kDomainname).s = builder_.String(spec_.domainname);
    }
  }

  // Made beneath the rootfs while that is writable.
  void WorkingDirectory() {
    const std::string cwd = CleanPath(spec_.process->cwd);
    if (cwd == "/") return;
    Op& op = builder_.Child(Code::kMakeDirectory);
    op.s = builder_.String(cwd);
    op.x = 0755;
  }

  void MasksAndReadonly() {
    if (spec_.root.readonly) builder_.Child(Code::kRootReadonly);
    for (const std::string& path : spec_.linux_.readonly_paths) {
      builder_.Child(Code::kReadonlyPath).s = builder_.String(CleanPath(path));
    }
    if (spec_.linux_.masked_paths.empty()) return;
    const int32_t null = builder_.NewSlot();
    const int32_t empty = builder_.NewSlot();
    builder_.Parent(Code::kOpenNull).b = null;
    for (const std::string& path : spec_.linux_.masked_paths) {
      Op& op = builder_.Child(Code::kMaskPath);
      op.a = null;
      op.b = empty;
      op.s = builder_.String(CleanPath(path));
    }
  }

  void ChangeRoot() {
    builder_.Child(Code::kPivotRoot);
    uint64_t flags = 0;
    if (spec_.linux_.rootfs_propagation == "shared") flags = MS_SHARED;
    if (spec_.linux_.rootfs_propagation == "slave") flags = MS_SLAVE;
    if (spec_.linux_.rootfs_propagation == "unbindable") flags = MS_UNBINDABLE;
    if (flags != 0) builder_.Child(Code::kRootPropagation).x = flags;
  }

  const CreateInputs& inputs_;
  const spec::Spec& spec_;
  CompiledPlan result_;
  Builder builder_;
  Context context_;
  int32_t rootfs_ = -1;
  bool hand_rootfs_ = false;
  int32_t old_overlay_first_ = -1;
  int32_t old_overlay_upper_ = -1;
  std::string old_upper_name_;
  std::string old_work_name_;
};

}  // namespace

NamespaceUse Context::Use(NamespaceType type) const {
  if (inputs.inherited.count(type) != 0) return NamespaceUse::kInherited;
  if (type == NamespaceType::kPid && inputs.join_pid_namespace) return NamespaceUse::kJoined;
  const spec::Namespace* ns = FindNamespace(spec, type);
  if (ns == nullptr) return NamespaceUse::kHost;
  return ns->path.empty() ? NamespaceUse::kNew : NamespaceUse::kJoined;
}

uint64_t CloneFlag(NamespaceType type) {
  switch (type) {
    case NamespaceType::kPid:
      return CLONE_NEWPID;
    case NamespaceType::kNetwork:
      return CLONE_NEWNET;
    case NamespaceType::kMount:
      return CLONE_NEWNS;
    case NamespaceType::kIpc:
      return CLONE_NEWIPC;
    case NamespaceType::kUts:
      return CLONE_NEWUTS;
    case NamespaceType::kUser:
      return CLONE_NEWUSER;
    case NamespaceType::kCgroup:
      return CLONE_NEWCGROUP;
    case NamespaceType::kTime:
      return CLONE_NEWTIME;
  }
  return 0;
}

absl::StatusOr<CompiledPlan> CompileCreate(const spec::Spec& spec, const CreateInputs& inputs) {
  return CreateCompiler(spec, inputs).Run();
}

}  // namespace davit::runtime::plan
