#ifndef DAVIT_SANDBOX_SUPERVISOR_SUPERVISOR_H_
#define DAVIT_SANDBOX_SUPERVISOR_SUPERVISOR_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/supervisor.pb.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/steps.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/child_reaper.h"
#include "sandbox/supervisor/container.h"
#include "sandbox/supervisor/descriptors.h"
#include "sandbox/supervisor/event_loop.h"
#include "sandbox/supervisor/exec.h"
#include "sandbox/supervisor/log_writer.h"
#include "sandbox/supervisor/pod_setup.h"
#include "sandbox/supervisor/protocol_server.h"

namespace davit::sandbox {

// A pod's supervisor: everything that runs in one pod, from the set-up of its namespaces to the
// Shutdown request. It outlives its daemon: without a connection it goes on, and the next Hello
// tells what happened. Belongs to one thread.
class Supervisor final : private ProtocolServer::Handler {
 public:
  struct Inheritance {
    sys::UniqueFd connection;    // the first one; may be absent
    sys::UniqueFd init_program;  // davit-init
  };

  // Makes this process a pod's supervisor. The process has one thread, and all signals are blocked.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Start(supervisor::v1::PodConfig config,
                                                           Inheritance inheritance);
  ~Supervisor() override;

  // The steps of every operation by their names, for fault injection.
  static std::vector<sys::OperationSteps> Steps();
  // In place of a supervisor of the same pod, which this process was until now
  // (proto/upgrade.proto). `descriptors` are the state's. With `only_check` everything is done that
  // can fail and can be undone by the end of the process, which must then end without the object's
  // destruction.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Restore(
      const upgrade::v1::SupervisorState& state, InheritedDescriptors* descriptors,
      bool only_check);
  // Goes on where the other program stopped, and tells whoever asked for the upgrade.
  void Continue();

  // Until a Shutdown request has been carried out and answered.
  void Run();

 private:
  using ConnectionId = ProtocolServer::ConnectionId;
  using Fds = std::vector<sys::UniqueFd>;
  // Where the answer to one request goes.
  struct Origin {
    ConnectionId connection;
    uint64_t request_id;
  };
  struct RunningExec {
    std::unique_ptr<Exec> exec;
    std::string container_id;
    ConnectionId connection;
  };
  // An upgrade that waits for its moment.
  struct PendingUpgrade {
    Origin origin;
    sys::UniqueFd program;
    std::string program_id;
    EventLoop::TimerId timer = 0;
    bool log_asked = false;    // to come to rest
    bool log_resting = false;  // has been said to
  };

  explicit Supervisor(supervisor::v1::PodConfig config) : config_(std::move(config)) {}
  using SetUpOperation = sys::Operation<Supervisor, Inheritance*>;
  static const SetUpOperation& SetUpSteps();
  absl::Status SetUp(Inheritance inheritance);
  absl::Status BecomeReaper(Inheritance* inheritance);
  absl::Status MakePod(Inheritance* inheritance);
  absl::Status WatchInit(Inheritance* inheritance);
  absl::Status StartLogWriter(Inheritance* inheritance);
  absl::Status Serve(Inheritance* inheritance);
  sys::Faults* faults() { return faults_.has_value() ? &*faults_ : nullptr; }
  absl::Status MakeLoop();
  absl::Status MakeLogWriter();
  absl::Status AwaitInit();

  // ProtocolServer::Handler
  void OnRequest(ConnectionId connection, const supervisor::v1::ToSupervisor& request,
                 Fds fds) override;
  void OnDisconnected(ConnectionId connection) override;

  void Hello(Origin origin, const supervisor::v1::Hello& request);
  void CreateContainer(Origin origin, const supervisor::v1::CreateContainer& request, Fds fds);
  void StartContainer(Origin origin, const supervisor::v1::StartContainer& request);
  void KillContainer(Origin origin, const supervisor::v1::KillContainer& request);
  void RemoveContainer(Origin origin, const supervisor::v1::RemoveContainer& request);
  void ReopenLog(Origin origin, const supervisor::v1::ReopenLog& request);
  void StartExec(Origin origin, const supervisor::v1::Exec& request, Fds fds);
  void CancelExec(Origin origin, const supervisor::v1::CancelExec& request);
  void Shutdown(Origin origin);
  void RemoveNextForShutdown();
  void FinishShutdown();
  void FillHello(supervisor::v1::HelloReply* hello) const;
  Container::Observer ContainerObserver();
  Exec::Observer ExecObserver(const std::string& exec_id);

  // supervisor_upgrade.cc
  void Upgrade(Origin origin, const supervisor::v1::Upgrade& request, Fds fds);
  void GiveUpUpgrade(const absl::Status& why);
  // At the end of a turn of the loop: goes on with the pending upgrade if this is the moment.
  void ContinueUpgrade();
  // Why the state cannot be handed on now; "": it can. What may be under way without an unanswered
  // request, and is not part of the state, has to be named here.
  std::string WhyBusy() const;
  void ReplaceSelf();
  absl::Status Save(upgrade::v1::SupervisorState* state, SavedDescriptors* descriptors) const;
  absl::Status RestoreParts(const upgrade::v1::SupervisorState& state,
                            InheritedDescriptors* descriptors);

  Container* Find(const std::string& id);
  void ForgetContainer(const std::string& id);
  void OnExecFinished(const std::string& exec_id, std::unique_ptr<Session> leftover);

  void Answer(Origin origin, supervisor::v1::Reply reply = {}, Fds fds = {});
  void AnswerError(Origin origin, const supervisor::v1::Error& error);
  void AnswerError(Origin origin, const absl::Status& status);
  // A callback that answers with success or the error.
  Container::Done Answerer(Origin origin);
  // Gives memory back once the work at hand is done.
  void TrimSoon();

  const supervisor::v1::PodConfig config_;
  std::optional<sys::Faults> faults_;  // of the configuration, for tests
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ChildReaper> reaper_;
  std::unique_ptr<LogWriter> log_writer_;
  PodContext pod_;
  PodTools tools_;
  std::map<std::string, std::unique_ptr<Container>> containers_;
  std::map<std::string, RunningExec> execs_;
  std::unique_ptr<ProtocolServer> server_;
  size_t open_requests_ = 0;  // not answered yet
  std::unique_ptr<PendingUpgrade> upgrade_;
  Origin upgraded_{0, 0};         // whom Continue tells
  std::vector<Origin> shutdown_;  // who asked for it
  absl::Status shutdown_status_;
  bool awaiting_init_ = false;
  bool trim_pending_ = false;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_SUPERVISOR_H_
