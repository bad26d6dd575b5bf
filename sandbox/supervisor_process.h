#ifndef DAVIT_SANDBOX_SUPERVISOR_PROCESS_H_
#define DAVIT_SANDBOX_SUPERVISOR_PROCESS_H_

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"

namespace davit::supervisor::v1 {
class PodConfig;
}

namespace davit::sandbox {

// Starts davit-pod processes. Thread-safe.
class SupervisorLauncher {
 public:
  struct Process {
    pid_t pid = -1;
    sys::UniqueFd pidfd;
    sys::UniqueFd socket;  // the first connection
    // Directory of the leaf that it lives in, in the unified hierarchy; "" without one.
    std::string cgroup;
  };

  // Reads the two programs into sealed memfds: what a container can reach of a supervisor through
  // /proc is then never a writable file of the host's (CVE-2019-5736). New files take effect with
  // the next start of the daemon, which then upgrades the supervisors that run (ManagerOptions).
  static absl::StatusOr<std::unique_ptr<SupervisorLauncher>> Create(const std::string& supervisor,
                                                                    const std::string& init);

  // Starts the supervisor of a pod in a cgroup of its own beneath davitd's, never the pod's: the
  // kubelet kills and freezes those. The caller reaps the process by its pidfd and then calls
  // RemoveLeaf.
  absl::StatusOr<Process> Start(const supervisor::v1::PodConfig& config) const;

  // davit-pod: the memfd, and what tells it from every other build: the SHA-256 of its content in
  // hexadecimal digits.
  int program() const { return supervisor_.get(); }
  const std::string& program_id() const { return program_id_; }

  // Where the supervisor of this pod lives or would live; "" without a unified hierarchy.
  std::string LeafOf(const std::string& sandbox_id) const;

 private:
  SupervisorLauncher() = default;
  sys::UniqueFd supervisor_;
  sys::UniqueFd init_;
  std::string program_id_;
  std::string leaf_prefix_;  // "/sys/fs/cgroup/unified/davitd.service/davit-pod-"
};

// Kills whatever is in a leaf (cgroup.kill, kernel >= 5.14) and removes it, waiting a little for
// its processes to go. Success if there is none, or for "".
absl::Status KillLeaf(const std::string& leaf);

// Whether a process runs davit-pod, as a launcher starts it: who serves a supervisor's socket may
// be anybody, if the file is not the supervisor's any more, and is not to be killed.
bool IsSupervisor(pid_t pid);

// Directory prefix of the leaves: `unified` is the hierarchy's mount point, `own` the daemon's
// group in it. The root group holds no processes of services: supervisors then live under
// /davit-supervisors.
std::string LeafPrefix(absl::string_view unified, absl::string_view own);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_PROCESS_H_
