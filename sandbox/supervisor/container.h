#ifndef DAVIT_SANDBOX_SUPERVISOR_CONTAINER_H_
#define DAVIT_SANDBOX_SUPERVISOR_CONTAINER_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "proto/supervisor.pb.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/steps.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/status_record.h"
#include "sandbox/supervisor/cgroup_watch.h"
#include "sandbox/supervisor/child_reaper.h"
#include "sandbox/supervisor/descriptors.h"
#include "sandbox/supervisor/event_loop.h"
#include "sandbox/supervisor/log_writer.h"
#include "sandbox/supervisor/pod_setup.h"
#include "sandbox/supervisor/session.h"

namespace davit::sandbox {

// What everything in a pod is made with. Outlives containers and execs.
struct PodTools {
  EventLoop* loop = nullptr;
  ChildReaper* reaper = nullptr;
  LogWriter* log_writer = nullptr;
  const PodContext* pod = nullptr;
};

// One container: CREATING -> CREATED -> RUNNING -> EXITED, or CREATING -> gone. Every state that
// somebody is told of is in the status record first. Belongs to the loop's thread.
class Container final : private Session::Listener {
 public:
  // Each callback may be called from within the method, and once only.
  using Done = std::function<void(const supervisor::v1::Error* error)>;  // null: success
  struct Observer {
    // The container has ended, its log is complete and the record is written.
    std::function<void(Container*)> exited;
    std::function<void(Container*)> out_of_memory;
    // Its log's health in the state has changed.
    std::function<void(Container*)> log_changed;
  };

  Container(const PodTools& tools, std::string id, Observer observer);
  ~Container() override;

  // Creates the process, up to where it waits for Start. `fds`: the plan, and the seccomp program
  // if the request says so. `pid_namespace` is a pidfd of a member of the PID namespace that a plan
  // may join (borrowed during the call), or -1. After an error nothing is left but the object, of
  // which only the destructor is then of use.
  void Create(const supervisor::v1::CreateContainer& request, std::vector<sys::UniqueFd> fds,
              int pid_namespace, Done done);
  // Once, when CREATED. If the payload cannot be executed the container is EXITED with start_errno,
  // the observer is told, and then `done` gets the error.
  void Start(Done done);
  // Success when it has ended.
  absl::Status Kill(int signal, bool all);
  // Kills what runs, then releases the rootfs, the log and the cgroups. Afterwards, on success, the
  // object is of no more use; after an error it can be called again. While one is in flight, more
  // callers wait with it.
  void Remove(Done done);
  void ReopenLog(Done done);

  // The steps of every operation by their names, for fault injection.
  static std::vector<sys::OperationSteps> Steps();

  const std::string& id() const { return state_.container_id(); }
  const supervisor::v1::ContainerState& state() const { return state_; }
  // Of its init, while it runs.
  int pidfd() const { return session_.pidfd(); }
  bool removing() const { return !removers_.empty(); }

  // Execs whose processes outlived the command: their cgroups lie in the container's, and go with
  // it.
  void AdoptLeftover(std::unique_ptr<Session> exec) { leftovers_.push_back(std::move(exec)); }
  // Drops those that have ended since.
  void SweepLeftovers();

  // ---- for a supervisor whose program is replaced in place (proto/upgrade.proto);
  // container_state.cc. New members that outlive a request are saved and restored there.

  // Why it cannot be saved now: "container x is being created"; "": it can.
  std::string WhyBusy() const;
  absl::StatusOr<upgrade::v1::ContainerState> Save(SavedDescriptors* descriptors) const;
  // On a new object, before the log writer's thread runs.
  absl::Status Restore(const upgrade::v1::ContainerState& state, InheritedDescriptors* descriptors);
  // When everything is restored: what was under way goes on.
  void Continue();

 private:
  // Session::Listener
  void OnCreated() override;
  void OnRunning() override;
  void OnFailed(const Session::Failed& failed) override;
  void OnExited(int wait_status) override;

  struct Creation;
  using CreateOperation = sys::Operation<Container, Creation*>;
  using FinishOperation = sys::Operation<Container>;

  static const CreateOperation& CreateSteps();
  absl::Status Prepare(const supervisor::v1::CreateContainer& request,
                       std::vector<sys::UniqueFd> fds, int pid_namespace);
  absl::Status CheckRequest(Creation* creation);
  absl::Status OpenRecord(Creation* creation);
  absl::Status Collect(Creation* creation);
  absl::Status MakeStdio(Creation* creation);
  absl::Status BeginLog(Creation* creation);
  absl::Status BeginLaunch(Creation* creation);
  // When the process is made and the log open.
  static const FinishOperation& FinishSteps();
  absl::Status WatchMemory();
  absl::Status RecordCreation();
  sys::Faults* faults() { return faults_.has_value() ? &*faults_ : nullptr; }
  void OpenLog(const std::string& path, LogWriter::Streams streams);
  LogWriter::OnHealth LogHealthCallback();
  void OnLogHealth(const LogHealth& health);
  void FinishCreation();
  void OnOutOfMemory();
  void AbandonCreation(supervisor::v1::Error error);
  void UndoCreation();
  void Ended(int wait_status);
  void AwaitLog();
  void TellExit();
  void WriteRecord();

  void ReleaseAfterExit();
  void ReleaseRootfs(std::function<void()> done);
  void ReleaseCgroups();
  void FinishRemoval(const absl::Status& status);

  const PodTools tools_;
  const Observer observer_;
  supervisor::v1::ContainerState state_;
  StatusWriter record_;
  Session session_;
  CgroupWatch cgroup_;
  ContainerLog* log_ = nullptr;
  std::string log_path_;
  sys::UniqueFd stdin_;                // the writing end, kept for attach
  sys::UniqueFd console_;              // the pty's master
  std::optional<sys::Faults> faults_;  // of the request, for tests
  bool launched_ = false;
  bool process_created_ = false;
  bool log_open_ = false;
  bool abandoned_ = false;
  supervisor::v1::Error creation_error_;
  Done create_done_;
  Done start_done_;
  supervisor::v1::Error start_error_;
  bool ended_ = false;      // reaped, or never was
  bool exit_told_ = false;  // the observer knows
  std::vector<Done> removers_;
  bool releasing_ = false;
  EventLoop::TimerId kill_timer_ = 0;
  std::vector<std::unique_ptr<Session>> leftovers_;
  // Callbacks that come after the object has gone find it gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// Nanoseconds since the epoch.
int64_t NowNanoseconds();

void SetError(const absl::Status& status, supervisor::v1::Error* error);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_CONTAINER_H_
