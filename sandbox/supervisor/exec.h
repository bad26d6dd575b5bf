#ifndef DAVIT_SANDBOX_SUPERVISOR_EXEC_H_
#define DAVIT_SANDBOX_SUPERVISOR_EXEC_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "proto/supervisor.pb.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/container.h"
#include "sandbox/supervisor/descriptors.h"
#include "sandbox/supervisor/session.h"

namespace davit::sandbox {

// One command run in a running container, with the caller's descriptors as its stdio: nothing of
// what it reads or prints passes through the supervisor. Belongs to the loop's thread.
class Exec final : private Session::Listener {
 public:
  struct Observer {
    // Once: the command runs (`error` null), or never will. `console` is the pty's master with tty.
    std::function<void(const supervisor::v1::Error* error, int pid, sys::UniqueFd console)> started;
    // Once, after a successful start: the command has ended. Processes it left behind may live on,
    // unless it was killed.
    std::function<void(int wait_status, bool timed_out)> exited;
    // Once, last: the object may be destroyed, but not from within. `leftover` is set if processes
    // that it left behind keep its cgroup busy.
    std::function<void(std::unique_ptr<Session> leftover)> finished;
  };

  Exec(const PodTools& tools, Observer observer);
  ~Exec() override;

  // `fds` as the protocol orders them. `container` must be running.
  void Start(const supervisor::v1::Exec& request, std::vector<sys::UniqueFd> fds,
             const Container& container);
  // Kills every process of the session.
  void Cancel();

  // ---- for a supervisor whose program is replaced in place (proto/upgrade.proto); exec_state.cc

  // It runs, and nothing else is going on.
  bool Steady() const;
  // Without what the supervisor knows of it.
  absl::StatusOr<upgrade::v1::ExecState> Save(SavedDescriptors* descriptors) const;
  // On a new object.
  absl::Status Restore(const upgrade::v1::ExecState& state, InheritedDescriptors* descriptors);

 private:
  // Session::Listener
  void OnCreated() override {}
  void OnRunning() override;
  void OnFailed(const Session::Failed& failed) override;
  void OnExited(int wait_status) override;

  absl::Status Begin(const supervisor::v1::Exec& request, std::vector<sys::UniqueFd> fds,
                     const Container& container);
  void Finish();
  void ArmTimer();

  const PodTools tools_;
  const Observer observer_;
  std::unique_ptr<Session> session_;
  EventLoop::TimerId timer_ = 0;
  int64_t deadline_ = 0;  // of the command, on the loop's clock; 0: none
  bool timed_out_ = false;
  bool killed_ = false;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_EXEC_H_
