#ifndef DAVIT_SANDBOX_SUPERVISOR_POD_INIT_H_
#define DAVIT_SANDBOX_SUPERVISOR_POD_INIT_H_

#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sandbox {

struct PodInit {
  pid_t pid = 0;  // in the caller's PID namespace
  sys::UniqueFd pidfd;
};

// Starts davit-init (davit_init.cc) from the executable memfd `program` as PID 1 of a new PID
// namespace, in a mount namespace of its own, both owned by `user_namespace` if that is not -1, and
// born in the unified cgroup directory `cgroup` unless that is empty. Returns once it has confined
// itself. It is the caller's child. The caller has one thread.
absl::StatusOr<PodInit> StartPodInit(int program, int user_namespace, const std::string& cgroup);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_POD_INIT_H_
