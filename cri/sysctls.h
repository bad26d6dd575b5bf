#ifndef DAVIT_CRI_SYSCTLS_H_
#define DAVIT_CRI_SYSCTLS_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace davit::cri {

struct SysctlScope {
  bool host_network = false;
  bool host_ipc = false;
};

// Checks a pod's sysctls and gives them with dots as separators ("net/core/somaxconn" is taken
// too). Only those that the kernel keeps per namespace pass, in a namespace that the pod has of its
// own (man 7 ipc_namespaces, man 7 network_namespaces): kernel.shm*, kernel.msg*, kernel.sem,
// fs.mqueue.* with its own IPC namespace, net.* with its own network, and kernel.domainname.
// Anything else would change the node: InvalidArgument. Pure and thread-safe.
absl::StatusOr<std::map<std::string, std::string>> CheckSysctls(
    const std::map<std::string, std::string>& sysctls, const SysctlScope& scope);

}  // namespace davit::cri

#endif  // DAVIT_CRI_SYSCTLS_H_
