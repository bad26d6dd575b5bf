#ifndef DAVIT_SANDBOX_SUPERVISOR_POD_SETUP_H_
#define DAVIT_SANDBOX_SUPERVISOR_POD_SETUP_H_

#include <sys/types.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/steps.h"
#include "runtime/sys/unique_fd.h"

// What makes a process the supervisor of a pod: namespaces, and what belongs to them.
namespace davit::sandbox {

// The pod's namespaces as the supervisor holds them. It is itself a member of the network, ipc and
// uts ones.
struct PodContext {
  sys::UniqueFd mount_namespace;  // stage/namespaces.h, PodNamespaces::mount
  sys::UniqueFd user_namespace;   // -1: the host's
  pid_t init_pid = 0;             // of a shared PID namespace; 0: none
  sys::UniqueFd init_pidfd;
};

// Makes the pod's namespaces, enters those that the supervisor belongs to, and sets them up:
// loopback up, sysctls, hostname, the binding of the network namespace at netns_path, and
// davit-init (from `init_program`, an executable memfd) if PID is shared. To be called once, by a
// process with one thread: namespaces belong to threads. On failure the binding is gone again, and
// the process is of no further use. `faults`: for tests; null: none.
absl::StatusOr<PodContext> SetUpPod(const supervisor::v1::PodConfig& config, int init_program,
                                    sys::Faults* faults = nullptr);
// Its steps by their names.
sys::OperationSteps PodSetupSteps();

// Unmounts and removes the binding of the network namespace; without one, success.
absl::Status RemoveNetnsBinding(const std::string& netns_path);

// "net.ipv4.conf.eth0/100.forwarding" -> "net/ipv4/conf/eth0.100/forwarding" (man 8 sysctl: the
// first separator decides). InvalidArgument for a name that is empty or leaves /proc/sys.
absl::StatusOr<std::string> SysctlPath(absl::string_view name);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_POD_SETUP_H_
