#ifndef DAVIT_RUNTIME_PLAN_COMPILE_H_
#define DAVIT_RUNTIME_PLAN_COMPILE_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/features.h"

// Specification -> plan (plan.h). Pure, deterministic and thread-safe: no system call, no clock, no
// environment. Equal inputs give equal bytes.
namespace davit::runtime::plan {

// The container's rootfs as an overlay instead of spec.root.path. All paths are absolute; upper_dir
// and work_dir are made if missing, their parent must exist and be the same directory for both on
// kernels before 6.7.
struct OverlayRootfs {
  std::vector<std::string> lower_dirs;  // topmost first
  std::string upper_dir;
  std::string work_dir;
  bool volatile_upper = true;
  bool idmap_lower = false;  // with a user namespace: map the layers' owners
};

struct CgroupWrite {
  std::string file;
  std::string value;
  // Failures that do not matter: bits of cgroup::WriteFlags (runtime/cgroup/resources.h).
  uint32_t flags = 0;
};

// The container's own group in one hierarchy.
struct CgroupDirectory {
  std::string path;                 // absolute: "/sys/fs/cgroup/memory/davit/pod1/c1"
  bool unified = false;             // cgroup v2: the process is born in it (clone3)
  std::vector<CgroupWrite> writes;  // in order, while the group is empty
  std::string device_program;       // v2: struct bpf_insn array; "" = none
  bool may_exist = false;           // else an existing group is an error (EEXIST)
  // v1, for the container's view of /sys/fs/cgroup: the directory's name there ("cpu,cpuacct"; with
  // links for each controller) and what it is mounted with: controllers, or a name ("systemd").
  std::string mount_name;
  std::vector<std::string> controllers;
  std::string named;
};

struct CreateInputs {
  std::string container_id;
  std::optional<OverlayRootfs> overlay;
  // Namespaces that the creator is a member of already, so that the process inherits them: no join,
  // although the spec names a path.
  std::set<spec::NamespaceType> inherited;
  // Start from the pod's mount namespace (slot kPodMountNamespace) instead of the creator's.
  bool join_pod_mount_namespace = false;
  // The mount at /dev/shm, whatever the spec gives as its source, is the pod's: a clone of
  // kPodShmPath in the pod's mount namespace (stage/namespaces.h).
  bool pod_shm = false;
  bool join_pid_namespace = false;   // slot kPidNamespace
  bool join_user_namespace = false;  // slot kUserNamespace
  // v1 directories in any order, and the unified one if there is such a hierarchy.
  std::vector<CgroupDirectory> cgroups;
  sys::KernelFeatures features;
  // Capabilities beyond these (the daemon's own permitted set) are dropped with a warning.
  uint64_t capability_ceiling = ~uint64_t{0};
  // oom_score_adj below this (the daemon's own, where CAP_SYS_RESOURCE is missing) is raised to it.
  int oom_score_adj_floor = -1000;
  // Hard rlimits above the daemon's own are lowered to them, with a warning, where the daemon may
  // not raise them: {"RLIMIT_NOFILE", limit} pairs.
  std::vector<spec::Rlimit> rlimit_ceiling;
  bool create_missing_bind_sources = true;  // as directories, 0755
  // Bind sources at or beneath these are davit's own files: opened directly, never in the helper
  // process for paths that may hang.
  std::vector<std::string> own_paths;
  bool has_seccomp = false;    // slot kSeccompProgram
  uint32_t seccomp_flags = 0;  // SECCOMP_FILTER_FLAG_*
  bool session_keyring = true;
  std::string bundle_dir;    // what a relative root.path is relative to
  bool rootfs_clone = true;  // keep a clone of the rootfs for the creator
};

struct CompiledPlan {
  std::string blob;
  std::vector<std::string> warnings;  // sentences: what the spec asked for and does not get
  std::optional<int> oom_score_adj;   // as it will be
};

// InvalidArgument names the field that cannot be executed ("mounts[3].options: ...").
absl::StatusOr<CompiledPlan> CompileCreate(const spec::Spec& spec, const CreateInputs& inputs);

// One more process in a running container. Namespaces are joined by the pidfd of its init (slot
// kTarget).
struct ExecInputs {
  std::string container_id;
  // CLONE_NEW* to join; the others are inherited from the creator. Mount and cgroup always are.
  std::set<spec::NamespaceType> join = {spec::NamespaceType::kMount, spec::NamespaceType::kCgroup};
  bool join_pid_namespace = true;  // by kTarget
  // With kUser in `join`: the namespace's map of user ids, so that the pipes can be given to the
  // process's user.
  std::vector<spec::IdMapping> uid_mappings;
  // The container's group in each hierarchy (only path and unified are read).
  std::vector<CgroupDirectory> cgroups;
  // Name of a leaf made under the container's group in the unified hierarchy ("exec-7"), so that
  // cgroup.kill ends exactly this session; "" = none. The creator's Undo removes it.
  std::string exec_leaf;
  sys::KernelFeatures features;
  uint64_t capability_ceiling = ~uint64_t{0};
  int oom_score_adj_floor = -1000;
  std::vector<spec::Rlimit> rlimit_ceiling;
  bool has_seccomp = false;
  uint32_t seccomp_flags = 0;
  bool session_keyring = true;
};

absl::StatusOr<CompiledPlan> CompileExec(const spec::Process& process, const ExecInputs& inputs);

// Has operation `number` of the plan (parent operations first) fail with `error_number` when it is
// executed. False, with nothing changed: it has no such operation.
bool SetFault(int32_t number, int32_t error_number, CompiledPlan* plan);

// The plan as text, one operation a line: for tests and `davit` tooling.
std::string Describe(absl::string_view blob);

}  // namespace davit::runtime::plan

#endif  // DAVIT_RUNTIME_PLAN_COMPILE_H_
