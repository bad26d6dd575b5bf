#ifndef DAVIT_RUNTIME_STAGE_NAMESPACES_H_
#define DAVIT_RUNTIME_STAGE_NAMESPACES_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/stage/pod_paths.h"
#include "runtime/sys/unique_fd.h"

namespace davit::runtime::stage {

struct PodNamespaceOptions {
  uint64_t shm_size = 64 * 1024 * 1024;  // bytes
  // Not empty: a user namespace that owns the others; "container host size" lines of
  // /proc/PID/uid_map.
  std::string uid_map;
  std::string gid_map;
  // Further namespaces to make, so that the user namespace owns them. Without a user namespace the
  // creator can unshare these itself, as cheaply.
  bool network = false;
  bool ipc = false;
  bool uts = false;
};

struct PodNamespaces {
  // Private, and almost empty: a read-only tmpfs as its root, the pod's /dev/shm at kPodShmPath,
  // and with a user namespace a procfs, and, if the network is its own, a sysfs (without a fully
  // visible one the kernel refuses new ones there). It pins none of the host's mounts.
  sys::UniqueFd mount;
  sys::UniqueFd user;
  sys::UniqueFd network;
  sys::UniqueFd ipc;
  sys::UniqueFd uts;
};

// Makes a pod's namespaces in a short-lived child (which is reaped before this returns) and returns
// them as descriptors. Takes about a millisecond. The error names the step. Thread-safe.
absl::StatusOr<PodNamespaces> CreatePodNamespaces(const PodNamespaceOptions& options);

// A user namespace with these maps, held by nothing but the descriptor.
absl::StatusOr<sys::UniqueFd> CreateUserNamespace(const std::string& uid_map,
                                                  const std::string& gid_map);

}  // namespace davit::runtime::stage

#endif  // DAVIT_RUNTIME_STAGE_NAMESPACES_H_
