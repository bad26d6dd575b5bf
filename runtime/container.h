#ifndef DAVIT_RUNTIME_CONTAINER_H_
#define DAVIT_RUNTIME_CONTAINER_H_

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/plan/compile.h"
#include "runtime/spec/spec.h"
#include "runtime/stage/launch.h"
#include "runtime/sys/unique_fd.h"

namespace davit::runtime {

// One container as a synchronous object: the lifecycle of the specification (runtime.md,
// "Lifecycle") over the plan and the stage, for callers that have a thread to spare (tests, runtime
// commands). The supervisor drives stage::Launch itself.
//
// The object is the parent of the container's processes and must be used from the process that made
// it. Not thread-safe.

// One more process in a container.
class Session {
 public:
  ~Session();  // kills and reaps what still runs, and removes the session's cgroup

  pid_t pid() const { return launch_->pid(); }
  // The wait status (man 2 waitpid); DeadlineExceeded leaves it running.
  absl::StatusOr<int> Wait(absl::Time deadline);
  absl::Status Kill(int signal);
  sys::UniqueFd TakeConsole() { return launch_->TakeConsole(); }
  const std::vector<std::string>& warnings() const { return warnings_; }
  std::vector<stage::Timing> Timings() const { return launch_->Timings(); }

 private:
  friend class Container;
  Session() = default;

  std::unique_ptr<stage::Launch> launch_;
  std::optional<int> status_;
  std::vector<std::string> warnings_;
};

enum class ContainerStatus { kCreated, kRunning, kStopped };

class Container {
 public:
  struct Options {
    spec::Spec spec;
    plan::CreateInputs inputs;
    // Standard descriptors and namespaces; the seccomp program is added from the spec.
    stage::ExternalFds external;
    // For bind sources that hang, and for everything else on the way to "created".
    absl::Duration timeout = absl::Seconds(120);
  };

  // Kills and removes whatever is left.
  ~Container();

  // Up to the state "created". On failure nothing is left. DeadlineExceeded names a bind source
  // that hangs.
  static absl::StatusOr<std::unique_ptr<Container>> Create(const Options& options);

  // Executes the payload; returns when execve has succeeded. FailedPrecondition unless created.
  // When the payload cannot be executed the container is stopped.
  absl::Status Start();
  // FailedPrecondition when stopped.
  absl::Status Kill(int signal);
  // The init's wait status; DeadlineExceeded leaves it running.
  absl::StatusOr<int> Wait(absl::Time deadline);
  // Removes the container's cgroups and lets its rootfs go. FailedPrecondition unless it is stopped
  // or `force` is set, which kills first. Idempotent.
  absl::Status Delete(bool force);

  // One more process. Returns when its execve has succeeded.
  absl::StatusOr<std::unique_ptr<Session>> Exec(const spec::Process& process,
                                                const stage::ExternalFds& external);

  // Looks (without blocking) whether the init has ended.
  ContainerStatus status();
  pid_t pid() const { return launch_->pid(); }
  const std::vector<std::string>& warnings() const { return warnings_; }
  std::vector<stage::Timing> Timings() const { return launch_->Timings(); }
  int rootfs_clone_fd() const { return launch_->rootfs_clone_fd(); }
  sys::UniqueFd TakeConsole() { return launch_->TakeConsole(); }

 private:
  Container() = default;

  spec::Spec spec_;
  plan::CreateInputs inputs_;
  stage::ExternalFds external_;
  sys::UniqueFd seccomp_;
  std::unique_ptr<stage::Launch> launch_;
  std::vector<std::string> warnings_;
  std::optional<int> status_;
  bool started_ = false;
  bool deleted_ = false;
  int next_exec_ = 1;
};

}  // namespace davit::runtime

#endif  // DAVIT_RUNTIME_CONTAINER_H_
