#ifndef DAVIT_RUNTIME_PLAN_CONTEXT_H_
#define DAVIT_RUNTIME_PLAN_CONTEXT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "runtime/plan/builder.h"
#include "runtime/plan/compile.h"
#include "runtime/spec/spec.h"

// What the parts of the compiler share. Private to this folder.
namespace davit::runtime::plan {

// How the container stands to one kind of namespace.
enum class NamespaceUse { kHost, kNew, kJoined, kInherited };

struct Context {
  const spec::Spec& spec;
  const CreateInputs& inputs;
  Builder& builder;
  CompiledPlan& result;

  bool user_namespace = false;  // a new or joined one
  int32_t user_namespace_slot = -1;
  // Slot of each group's directory, by index of inputs.cgroups.
  std::vector<int32_t> cgroup_slots;
  // Parent operations on paths that may hang: they come last (see Code::kOpenBind).
  std::vector<Op> deferred;

  NamespaceUse Use(spec::NamespaceType type) const;
  void Warn(std::string sentence) { result.warnings.push_back(std::move(sentence)); }
};

// CLONE_NEW* of a type.
uint64_t CloneFlag(spec::NamespaceType type);

// "/a//b/../c/" -> "/a/c": purely of the text; always absolute.
std::string CleanPath(absl::string_view path);
// Whether `path` is `base` or beneath it. Both clean.
bool IsBeneath(absl::string_view path, absl::string_view base);

absl::Status CheckGroups(const std::vector<CgroupDirectory>& groups);
// How the process gets into its v1 groups, whose directories are in `slots`.
void EnterCgroups(Builder& builder, const std::vector<CgroupDirectory>& groups,
                  const std::vector<int32_t>& slots);

// Attributes, data and order of every mount, /dev included; masks and read-only paths
// (mounts.cc, devices.cc, cgroup_mount.cc).
absl::Status CompileMounts(Context& context);
absl::Status CompileDev(Context& context, const spec::Mount* dev_mount, int32_t* dev_slot,
                        bool* readonly);
absl::Status CompileOtherDevices(Context& context);
absl::Status CompileCgroupMount(Context& context, const std::string& destination,
                                const spec::Mount& mount);

// The namespaced sysctls that the specification allows (config-linux.md, sysctl).
absl::Status CompileSysctls(Context& context);

// Limits and identity of a process, shared by containers and exec sessions (process.cc).
struct ProcessInputs {
  Kind kind = Kind::kContainer;
  const sys::KernelFeatures* features = nullptr;
  uint64_t capability_ceiling = 0;
  int oom_score_adj_floor = 0;
  const std::vector<spec::Rlimit>* rlimit_ceiling = nullptr;
  bool has_seccomp = false;
  uint32_t seccomp_flags = 0;
  bool user_namespace = false;
  std::string keyring;    // "" = none
  uint32_t host_uid = 0;  // of the process, for the ownership of its pipes; UINT32_MAX = unknown
};
// What needs the creator's view: stdio, oom_score_adj, limits to raise before a user namespace.
absl::Status CompileProcessBegin(Builder& builder, const spec::Process& process,
                                 const ProcessInputs& inputs, CompiledPlan& result);
// Everything from the session on to exec.
absl::Status CompileProcessEnd(Builder& builder, const spec::Process& process,
                               const ProcessInputs& inputs, CompiledPlan& result);

}  // namespace davit::runtime::plan

#endif  // DAVIT_RUNTIME_PLAN_CONTEXT_H_
