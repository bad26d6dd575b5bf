#ifndef DAVIT_SANDBOX_POD_SYSCTLS_H_
#define DAVIT_SANDBOX_POD_SYSCTLS_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "sandbox/manager.h"

namespace davit::sandbox {

// The sysctls that the supervisor sets in the pod's namespaces: the pod's own, and for a pod with a
// network of its own, unless it says otherwise, the two that let a container without privileges
// bind low ports and ping (net.ipv4.ip_unprivileged_port_start, net.ipv4.ping_group_range).
// InvalidArgument for one that is not of a namespace which the pod has for itself: setting it would
// change the node (man 7 namespaces; kernel.* of ipc_namespaces(7), net.* of the network
// namespace). Names may be written with '.' or '/'.
absl::StatusOr<std::map<std::string, std::string>> PodSysctls(const PodSpec& spec);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_POD_SYSCTLS_H_
