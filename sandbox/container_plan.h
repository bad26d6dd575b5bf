#ifndef DAVIT_SANDBOX_CONTAINER_PLAN_H_
#define DAVIT_SANDBOX_CONTAINER_PLAN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/cgroup/layout.h"
#include "runtime/plan/compile.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/features.h"
#include "sandbox/manager.h"
#include "sandbox/process_limits.h"

// From what CRI asked for to what the plan's compiler takes: everything of a container that its pod
// and this node decide. Pure.
namespace davit::sandbox {

// What the node decides, for every container.
struct NodeTraits {
  runtime::cgroup::Layout layout;
  sys::KernelFeatures features;
  ProcessLimits limits;
  std::string state_directory;  // beneath it are davit's own files
  bool refuse_missing_host_paths = false;
};

// What the pod decides.
struct PodTraits {
  NamespaceMode network = NamespaceMode::kPod;
  NamespaceMode ipc = NamespaceMode::kPod;
  NamespaceMode pid = NamespaceMode::kPod;
  std::string netns_path;
  int32_t supervisor_pid = 0;
  int32_t init_pid = 0;  // of the shared PID namespace, or 0
  // Of the pod's user namespace; empty: the node's.
  std::vector<runtime::spec::IdMapping> uid_mappings;
  std::vector<runtime::spec::IdMapping> gid_mappings;
};

// The container's namespaces by its modes.
struct ContainerNamespaces {
  NamespaceMode pid = NamespaceMode::kPod;
  int32_t target_pid = 0;  // init of the target container, with kTarget
};

// Whether the container joins an existing PID namespace (the pod's or another container's) instead
// of being the init of its own.
bool JoinsPidNamespace(const PodTraits& pod, const ContainerNamespaces& container);

// Fills in the namespaces, the cgroup path and what the pod's namespaces hold already (hostname):
// the result is the config.json that people see. Mount, cgroup and time namespaces are the
// caller's, a missing mount namespace is added.
void CompleteSpec(const PodTraits& pod, const ContainerNamespaces& container,
                  const std::string& cgroup_path, runtime::spec::Spec* spec);

// Inputs of CompileCreate for a completed spec, all but the overlay and the seccomp program.
absl::StatusOr<runtime::plan::CreateInputs> MakeCreateInputs(const NodeTraits& node,
                                                             const PodTraits& pod,
                                                             const ContainerNamespaces& container,
                                                             const std::string& container_id,
                                                             const std::string& bundle_directory,
                                                             const runtime::spec::Spec& spec);

// Inputs of CompileExec for a container in `group`, all but the seccomp program.
runtime::plan::ExecInputs MakeExecInputs(const NodeTraits& node, const std::string& container_id,
                                         const std::string& exec_id, const std::string& group);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_CONTAINER_PLAN_H_
