#include "sandbox/container_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/cgroup_directories.h"
#include "runtime/sys/errno.h"

namespace davit::sandbox {
namespace {

using runtime::plan::CgroupDirectory;
using runtime::spec::Namespace;
using runtime::spec::NamespaceType;
using runtime::spec::Spec;

std::string NamespaceOf(int32_t pid, const char* name) {
  return absl::StrCat("/proc/", pid, "/ns/", name);
}

bool IsPodDecided(const Namespace& entry) {
  return entry.type == NamespaceType::kPid || entry.type == NamespaceType::kIpc ||
         entry.type == NamespaceType::kUts || entry.type == NamespaceType::kNetwork ||
         entry.type == NamespaceType::kUser;
}

bool Has(const Spec& spec, NamespaceType type) {
  return std::any_of(spec.linux_.namespaces.begin(), spec.linux_.namespaces.end(),
                     [type](const Namespace& entry) { return entry.type == type; });
}

void AddPidNamespace(const PodTraits& pod, const ContainerNamespaces& container, Spec* spec) {
  if (container.pid == NamespaceMode::kNode) return;
  std::string path;  // "" = one of its own
  if (container.pid == NamespaceMode::kTarget) {
    path = NamespaceOf(container.target_pid, "pid");
  } else if (JoinsPidNamespace(pod, container)) {
    path = NamespaceOf(pod.init_pid, "pid");
  }
  spec->linux_.namespaces.push_back({NamespaceType::kPid, path});
}

}  // namespace

bool JoinsPidNamespace(const PodTraits& pod, const ContainerNamespaces& container) {
  switch (container.pid) {
    case NamespaceMode::kTarget:
      return true;
    case NamespaceMode::kPod:
      // A pod that was made without a shared namespace has none to join: the container then gets
      // its own, which isolates more than what was asked for, never less.
      return pod.init_pid != 0;
    default:
      return false;
  }
}

void CompleteSpec(const PodTraits& pod, const ContainerNamespaces& container,
                  const std::string& cgroup_path, Spec* spec) {
  auto& namespaces = spec->linux_.namespaces;
  namespaces.erase(std::remove_if(namespaces.begin(), namespaces.end(), IsPodDecided),
                   namespaces.end());
  if (!Has(*spec, NamespaceType::kMount)) namespaces.push_back({NamespaceType::kMount, ""});
  spec->linux_.uid_mappings = pod.uid_mappings;
  spec->linux_.gid_mappings = pod.gid_mappings;
  // To whoever reads config.json it looks like a new one; the supervisor hands over the pod's.
  if (!pod.uid_mappings.empty()) namespaces.push_back({NamespaceType::kUser, ""});
  AddPidNamespace(pod, container, spec);
  if (pod.network != NamespaceMode::kNode) {
    namespaces.push_back({NamespaceType::kNetwork, pod.netns_path});
    namespaces.push_back({NamespaceType::kUts, NamespaceOf(pod.supervisor_pid, "uts")});
  }
  if (pod.ipc != NamespaceMode::kNode) {
    namespaces.push_back({NamespaceType::kIpc, NamespaceOf(pod.supervisor_pid, "ipc")});
  } else {
    // With the node's IPC goes the node's shared memory, whatever stands there.
    for (runtime::spec::Mount& mount : spec->mounts) {
      if (mount.destination != "/dev/shm" || mount.type == "bind") continue;
      mount.type = "bind";
      mount.source = "/dev/shm";
      mount.options = {"rbind", "rw", "nosuid", "nodev", "noexec"};
    }
  }
  // The namespace has its names already: setting one again would change every other container's.
  spec->hostname.clear();
  spec->domainname.clear();
  spec->linux_.cgroups_path = cgroup_path;
  if (spec->root.path.empty()) spec->root.path = "rootfs";
}

absl::StatusOr<runtime::plan::CreateInputs> MakeCreateInputs(
    const NodeTraits& node, const PodTraits& pod, const ContainerNamespaces& container,
    const std::string& container_id, const std::string& bundle_directory, const Spec& spec) {
  runtime::plan::CreateInputs inputs;
  inputs.container_id = container_id;
  // The supervisor is a member of the pod's, so its children are born into them. Those that the pod
  // shares with the node are the host's.
  if (pod.network != NamespaceMode::kNode) {
    inputs.inherited = {NamespaceType::kNetwork, NamespaceType::kUts};
  }
  if (pod.ipc != NamespaceMode::kNode) inputs.inherited.insert(NamespaceType::kIpc);
  inputs.join_pod_mount_namespace = true;
  inputs.pod_shm = pod.ipc != NamespaceMode::kNode;
  inputs.join_pid_namespace = JoinsPidNamespace(pod, container);
  inputs.join_user_namespace = Has(spec, NamespaceType::kUser);
  DAVIT_ASSIGN_OR_RETURN(
      inputs.cgroups,
      runtime::CgroupDirectories(node.layout, spec.linux_.cgroups_path,
                                 spec.linux_.resources.value_or(runtime::spec::LinuxResources())));
  inputs.features = node.features;
  inputs.capability_ceiling = node.limits.capability_ceiling;
  inputs.oom_score_adj_floor = node.limits.oom_score_adj_floor;
  inputs.rlimit_ceiling = node.limits.rlimit_ceiling;
  inputs.create_missing_bind_sources = !node.refuse_missing_host_paths;
  inputs.own_paths = {node.state_directory};
  inputs.bundle_dir = bundle_directory;
  return inputs;
}

runtime::plan::ExecInputs MakeExecInputs(const NodeTraits& node, const std::string& container_id,
                                         const std::string& exec_id, const std::string& group) {
  runtime::plan::ExecInputs inputs;
  inputs.container_id = container_id;
  for (size_t i = 0; i < node.layout.hierarchies.size(); ++i) {
    CgroupDirectory directory;
    directory.path = node.layout.Directory(static_cast<int>(i), group);
    directory.unified = node.layout.hierarchies[i].is_v2;
    inputs.cgroups.push_back(std::move(directory));
  }
  inputs.exec_leaf = absl::StrCat("exec-", exec_id);
  inputs.features = node.features;
  inputs.capability_ceiling = node.limits.capability_ceiling;
  inputs.oom_score_adj_floor = node.limits.oom_score_adj_floor;
  inputs.rlimit_ceiling = node.limits.rlimit_ceiling;
  return inputs;
}

}  // namespace davit::sandbox
