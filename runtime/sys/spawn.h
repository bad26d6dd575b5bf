#ifndef DAVIT_RUNTIME_SYS_SPAWN_H_
#define DAVIT_RUNTIME_SYS_SPAWN_H_

#include <sys/types.h>

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sys {

// How a helper process is started. Nothing of the caller's memory is copied: the child shares it
// (CLONE_VM | CLONE_VFORK) until it execs, so the cost does not grow with the daemon's heap.
struct SpawnOptions {
  // What to run: a path, or a descriptor (a sealed memfd) when `executable_fd` >= 0.
  std::string path;
  int executable_fd = -1;
  std::vector<std::string> argv;
  std::vector<std::string> environment;  // "NAME=value"; nothing is inherited
  // Pairs {descriptor here, number there}. Every other descriptor of the child is closed.
  // Numbers 0, 1 and 2 that are not named are /dev/null.
  std::vector<std::pair<int, int>> fds;
  int cgroup_fd = -1;        // a cgroup v2 directory to start in (CLONE_INTO_CGROUP), or -1
  bool new_session = false;  // setsid
  bool new_process_group = false;
  // Sent to the child when the *thread* that spawned it dies (man 2 prctl, PR_SET_PDEATHSIG); 0:
  // none.
  int parent_death_signal = 0;
};

struct SpawnedProcess {
  pid_t pid = -1;
  UniqueFd pidfd;
};

// Starts a child with default signal dispositions and an empty signal mask. It has exec'ed when
// this returns; a failing exec is the returned error (NotFound, PermissionDenied, ...). The caller
// must wait for the child (WaitPidfd). Thread-safe. Kernel >= 5.7 for cgroup_fd.
absl::StatusOr<SpawnedProcess> Spawn(const SpawnOptions& options);

// Reaps the child behind `pidfd` and returns its wait status (as man 2 waitpid). Blocks until then
// or until the deadline: DeadlineExceeded leaves the child running.
absl::StatusOr<int> WaitPidfd(int pidfd, absl::Time deadline);

// Sends `signal` by pidfd. A process that is gone is success.
absl::Status KillPidfd(int pidfd, int signal);

absl::StatusOr<UniqueFd> PidfdOpen(pid_t pid);

// Runs a command to its end: for tools and tests and CNI-like helpers. Output beyond `output_limit`
// bytes a stream is cut. At the deadline the child's process group is killed.
struct CommandResult {
  int wait_status = 0;
  std::string out;
  std::string err;
};
absl::StatusOr<CommandResult> RunCommand(SpawnOptions options, absl::string_view input,
                                         size_t output_limit, absl::Time deadline);

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_SPAWN_H_
