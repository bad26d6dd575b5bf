#ifndef DAVIT_SANDBOX_MANAGER_IMPL_H_
#define DAVIT_SANDBOX_MANAGER_IMPL_H_

#include <atomic>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/state.pb.h"
#include "proto/supervisor.pb.h"
#include "runtime/cgroup/group.h"
#include "runtime/seccomp/cache.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/steps.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/cni/network.h"
#include "sandbox/container_plan.h"
#include "sandbox/io_loop.h"
#include "sandbox/manager.h"
#include "sandbox/registry.h"
#include "sandbox/supervisor_client.h"
#include "sandbox/supervisor_process.h"
#include "sandbox/undo.h"
#include "sandbox/workers.h"
#include "sandbox/writable_layers.h"

namespace davit::sandbox {

// The Manager. Its flows are in files of their own: run_pod.cc, stop_pod.cc, create_container.cc,
// start_container.cc, stop_container.cc, exec_sync.cc, update_resources.cc, supervisor_loss.cc,
// hung_supervisor.cc, upgrade_supervisor.cc and recover.cc; manager.cc holds what is left.
//
// Threads: callers' own, the loop (supervisor connections, timers, exec pipes) and workers for
// whatever blocks in an asynchronous call. Operations on one pod or container are put in order by
// the gates in Pod and Container. Order of entering: pod gate before container gate.
class ManagerImpl : public Manager {
 public:
  ManagerImpl(ManagerOptions options, MetadataCodec codec, images::ImageService* images);
  ~ManagerImpl() override;

  // The steps of every operation.
  static std::vector<sys::OperationSteps> Steps();

  // Everything of Open. Once, first.
  absl::Status Start();

  absl::StatusOr<std::string> RunPod(PodSpec spec) override;
  void StopPod(const std::string& id, DoneCallback done) override;
  void RemovePod(const std::string& id, DoneCallback done) override;
  absl::StatusOr<std::string> CreateContainer(ContainerSpec spec) override;
  absl::Status StartContainer(const std::string& id) override;
  void StopContainer(const std::string& id, absl::Duration timeout, DoneCallback done) override;
  void RemoveContainer(const std::string& id, DoneCallback done) override;
  absl::Status ReopenLog(const std::string& id) override;
  void ExecSync(ExecSpec spec, std::function<void(absl::StatusOr<ExecResult>)> done) override;
  absl::Status UpdateResources(const std::string& id,
                               const runtime::spec::LinuxResources& resources,
                               MetadataPtr metadata) override;
  absl::StatusOr<std::shared_ptr<const PodView>> FindPod(absl::string_view id) const override;
  absl::StatusOr<std::shared_ptr<const ContainerView>> FindContainer(
      absl::string_view id) const override;
  std::vector<std::shared_ptr<const PodView>> ListPods() const override;
  std::vector<std::shared_ptr<const ContainerView>> ListContainers() const override;
  void SetUpgradeSupervisors(bool upgrade) override;
  NetworkStatus Network() const override;
  std::string CniConfigJson() const override;
  void Shutdown() override;

 private:
  struct PodRun;           // run_pod.cc
  struct ContainerMaking;  // create_container.cc
  struct FoundPod;         // recover.cc
  struct PodEnd;           // stop_pod.cc
  struct ContainerStart;   // start_container.cc
  struct ContainerStop;    // stop_container.cc

  using PodOperation = sys::Operation<ManagerImpl, PodRun*>;
  using EndOperation = sys::Operation<ManagerImpl, PodEnd*>;
  using StartOperation = sys::Operation<ManagerImpl, ContainerStart*>;
  using StopOperation = sys::Operation<ManagerImpl, ContainerStop*>;
  using ContainerOperation = sys::Operation<ManagerImpl, ContainerMaking*>;
  using ContainerEndOperation = sys::Operation<ManagerImpl, const ContainerPtr&>;

  // upgrade_supervisor.cc
  // On the loop, after every Hello: notes what runs there, and sees to it that it becomes ours.
  // FailedPrecondition, naming both versions, if davitd and supervisor do not understand each
  // other.
  absl::Status NoteBuild(const PodPtr& pod, const supervisor::v1::HelloReply& hello);
  // One that failed so is upgraded at once, and asked again.
  void UpgradeForeign(const PodPtr& pod, const std::shared_ptr<SupervisorClient>& client,
                      const absl::Status& why, absl::Duration timeout,
                      std::function<void(absl::Status)> done);
  // Lets the upgrade come to its turn: few at a time.
  void QueueUpgrade(const PodPtr& pod, absl::Duration delay);
  void RunQueuedUpgrades();
  // On a worker, when nothing else is done to the pod: replaces the program if it is not ours yet.
  absl::Status UpgradeSupervisor(const PodPtr& pod, SupervisorClient* client);
  // True if the supervisor executes the plans that this davitd makes.
  bool ExecutesOurPlans(const Pod& pod) const;
  // Waits, and upgrades it if it does not.
  absl::Status EnsureOurPlans(const PodPtr& pod);

  // One call that is under way on a thread of its caller: Shutdown waits for it.
  class CallInProgress {
   public:
    explicit CallInProgress(ManagerImpl* manager);
    ~CallInProgress();
    CallInProgress(const CallInProgress&) = delete;
    CallInProgress& operator=(const CallInProgress&) = delete;
    // Unavailable once the manager is shutting down.
    const absl::Status& status() const { return status_; }

   private:
    ManagerImpl* const manager_;
    absl::Status status_;
  };

  // manager.cc
  absl::Status OpenParts();
  void CloseConnections();
  void Report(Severity severity, const std::string& message) const;
  // A step of an undo. What fails is said, and tried again in the background until it succeeds:
  // what the step needs may be what the operation failed for.
  void ClearAway(const std::string& what, std::function<absl::Status()> step);
  void ClearAwayLater(const std::string& what, std::function<absl::Status()> step,
                      absl::Duration delay);
  std::string PodsDirectory() const;
  // The fault that is ordered for one of the operations that a supervisor carries out, as text for
  // it; "" if there is none.
  std::string HandOnFault(std::initializer_list<const char*> operations) const;
  PodTraits TraitsOf(const Pod& pod) const;

  // run_pod.cc
  static const PodOperation& RunPodSteps();
  absl::Status CheckPod(PodRun* run);
  absl::Status ReservePod(PodRun* run);
  absl::Status MakePodDirectory(PodRun* run);
  absl::Status StartSupervisor(PodRun* run);
  absl::Status MakePodGroup(PodRun* run);
  absl::Status WritePodFilesStep(PodRun* run);
  absl::Status AwaitSupervisor(PodRun* run);
  static cni::Request NetworkRequest(const PodView& view);
  absl::Status AttachNetwork(PodRun* run);
  absl::Status WatchNewSupervisor(PodRun* run);
  absl::Status WriteNewPodRecord(PodRun* run);
  std::shared_ptr<SupervisorClient> ConnectClient(const PodPtr& pod, sys::UniqueFd socket,
                                                  absl::Status* status);
  // Watches the process in the loop; its end is the loss of the supervisor.
  absl::Status WatchSupervisor(const PodPtr& pod);

  // stop_pod.cc
  static const EndOperation& EndPodSteps();
  absl::Status KillForEnd(PodEnd* end);
  static const EndOperation& StopPodSteps();
  absl::Status DetachNetwork(PodEnd* end);
  absl::Status MarkStopped(PodEnd* end);
  static const EndOperation& RemovePodSteps();
  absl::Status StopForRemoval(PodEnd* end);
  absl::Status RemoveContainers(PodEnd* end);
  absl::Status ShutSupervisorDown(PodEnd* end);
  absl::Status RemovePodGroup(PodEnd* end);
  absl::Status RemovePodFiles(PodEnd* end);
  // On a worker, with the pod's gate.
  absl::Status StopPodLocked(const PodPtr& pod);
  absl::Status RemovePodLocked(const PodPtr& pod);
  // Kills the pod's containers and closes it to new ones, then runs `steps` on a worker when the
  // pod's turn has come.
  void EndPod(const std::string& id, absl::Status (ManagerImpl::*steps)(const PodPtr&),
              DoneCallback done);
  void KillContainers(const PodPtr& pod);
  // Calls back once: when all of the pod's containers have exited, or DeadlineExceeded. Holds no
  // thread meanwhile; `done` runs on whatever thread finds out, and must not block.
  void AwaitExits(const PodPtr& pod, DoneCallback done);
  // CNI DEL and the namespace's binding.
  absl::Status TakeNetworkDown(const PodPtr& pod);
  // Asks the supervisor to end, and ends it if it does not; cleans up after it either way.
  absl::Status EndSupervisor(const PodPtr& pod);
  // A supervisor that has nothing left to do but does not end: it is reaped, and its cgroup
  // removed, when it does.
  struct Lingering {
    sys::UniqueFd pidfd;
    std::string leaf;
  };
  void AwaitLingering(std::shared_ptr<Lingering> lingering);
  absl::Status UpdatePodRecord(const PodPtr& pod);
  absl::Status RemovePodDirectory(const PodPtr& pod);
  void ScheduleNetworkRetry(absl::Duration delay);
  // DEL for every attachment whose pod does not run.
  void RetryNetwork();

  // create_container.cc
  static const ContainerOperation& CreateContainerSteps();
  absl::Status CheckContainer(ContainerMaking* making);
  absl::Status ReserveContainer(ContainerMaking* making);
  absl::Status MakeContainerDirectory(ContainerMaking* making);
  absl::Status MakeWritableLayer(ContainerMaking* making);
  absl::Status CompileContainer(ContainerMaking* making);
  absl::Status SendCreate(ContainerMaking* making);
  void UndoCreate(const PodPtr& pod, const ContainerPtr& container);
  absl::Status WriteConfigJson(ContainerMaking* making);
  absl::Status WriteNewContainerRecord(ContainerMaking* making);
  absl::Status AwaitCreated(ContainerMaking* making);
  // Has an operation of the plan fail, if a fault was ordered for it.
  void OrderPlanFault(runtime::plan::CompiledPlan* plan);
  absl::StatusOr<int32_t> TargetPid(const Pod& pod, const ContainerSpec& spec) const;

  // start_container.cc
  static const StartOperation& StartContainerSteps();
  absl::Status CheckStart(ContainerStart* start);
  absl::Status RunCommand(ContainerStart* start);
  void StartFailed(const ContainerPtr& container, const absl::Status& why);

  // stop_container.cc
  static const StopOperation& StopContainerSteps();
  absl::Status BeginStop(ContainerStop* stop);
  // Calls back once: when the container has exited, or after `limit` with DeadlineExceeded.
  void AwaitExit(const ContainerPtr& container, absl::Duration limit, const DoneCallback& done);
  void Signal(const ContainerPtr& container, int signal);
  // By the kernel, without a supervisor.
  void SignalDirectly(const ContainerPtr& container, int signal);
  void Escalate(const ContainerPtr& container);
  static const ContainerEndOperation& RemoveContainerSteps();
  absl::Status EndContainer(const ContainerPtr& container);
  absl::Status RemoveWritableLayer(const ContainerPtr& container);
  absl::Status RemoveContainerDirectory(const ContainerPtr& container);
  // On a worker, with the container's gate: everything of the container goes.
  absl::Status RemoveContainerLocked(const ContainerPtr& container);

  // hung_supervisor.cc
  class StopWatch;
  // Held by a stop or a removal while it goes on: from `delay` on, the supervisor has to show now
  // and then that it lives. One that does not answer within options_.supervisor_patience is killed,
  // and its loss settles whatever the operation waits for.
  std::shared_ptr<StopWatch> WatchStop(const PodPtr& pod, absl::Duration delay);
  void ArmStopWatch(const std::shared_ptr<StopWatch>& watch, absl::Duration delay);
  void ProbeSupervisor(const PodPtr& pod);
  void ProbeUntil(const PodPtr& pod, absl::Time deadline);

  // exec_sync.cc
  absl::StatusOr<std::shared_ptr<const ExecTemplate>> TemplateOf(const ContainerPtr& container);

  // supervisor_loss.cc
  void OnEvent(const PodPtr& pod, const supervisor::v1::FromSupervisor& event);
  // Notes how a log does, and says so when that has changed.
  void AdoptLog(const ContainerPtr& container, const supervisor::v1::LogHealth& health);
  // Brings a container's phase in line with what its supervisor or its status record says. `pidfd`
  // is its process's, if whoever tells of it has one.
  void Adopt(const ContainerPtr& container, const supervisor::v1::ContainerState& state,
             sys::UniqueFd pidfd = {});
  void OnConnectionClosed(const PodPtr& pod);
  void OnSupervisorGone(const PodPtr& pod);
  void HandleLoss(const PodPtr& pod);
  // Without the network: kills what runs, finds out how it ended, marks the pod. `why` is reported;
  // "": it has been.
  void SettleLostPod(const PodPtr& pod, const std::string& why);
  // Kills what runs of the pod, and waits for each container's gate before it settles it.
  void SettleLostContainers(const PodPtr& pod);
  // With the container's gate.
  void SettleLostContainer(const ContainerPtr& container);
  void ScheduleReconnect(const PodPtr& pod, absl::Duration delay);
  // Connects and says Hello; `done` runs on the loop, or on this thread if that cannot be done.
  void Reach(const PodPtr& pod, absl::Duration timeout, std::function<void(absl::Status)> done);
  // Asks for the containers after `after`, page by page; `timeout` for each.
  void SayHello(const PodPtr& pod, const std::shared_ptr<SupervisorClient>& client,
                const std::string& after, absl::Duration timeout,
                std::function<void(absl::Status)> done);
  absl::Status Resync(const PodPtr& pod, const supervisor::v1::HelloReply& hello,
                      std::map<std::string, sys::UniqueFd> pidfds);

  // recover.cc
  absl::Status Recover();
  absl::Status ReadPods(std::vector<FoundPod>* found);
  absl::Status LoadPod(const std::string& id, FoundPod* found);
  void LoadContainers(const PodPtr& pod);
  void ReportNewer(const std::string& what, uint32_t version);
  absl::Status LoadContainer(const PodPtr& pod, const std::string& id);
  void ReachAll(std::vector<FoundPod>* found);
  void SettleFound(FoundPod* found);
  void DiscardUnfinished(const PodPtr& pod);
  void DiscardPod(const std::string& id);
  void PutLayerAside(const std::string& container_id);
  void PutAside(const std::string& directory, const std::string& name, const absl::Status& why);
  void RemoveOrphanLayers();

  const ManagerOptions options_;
  const MetadataCodec codec_;
  images::ImageService* const images_;

  sys::UniqueFd lock_;
  std::string boot_id_;
  NodeTraits node_;
  std::unique_ptr<runtime::cgroup::Groups> groups_;
  std::unique_ptr<SupervisorLauncher> launcher_;
  std::unique_ptr<cni::Network> network_;
  std::unique_ptr<WritableLayers> layers_;
  runtime::seccomp::ProgramCache seccomp_;
  Registry registry_;
  std::unique_ptr<IoLoop> loop_;
  Workers workers_{64};
  std::atomic<bool> shutting_down_{false};
  std::atomic<bool> upgrade_supervisors_;
  // Pods whose records a newer davitd wrote. Filled by Recover, then constant.
  std::set<std::string> left_alone_;

  sys::Mutex mutex_;
  sys::CondVar calls_changed_;
  int calls_ ABSL_GUARDED_BY(mutex_) = 0;
  // Pods whose ADD is under way: their attachments are not left over.
  std::set<std::string> attaching_ ABSL_GUARDED_BY(mutex_);
  // Pods whose supervisors are to be upgraded, with the delay before the next try.
  std::deque<std::pair<std::weak_ptr<Pod>, absl::Duration>> upgrades_ ABSL_GUARDED_BY(mutex_);
  int upgrades_running_ ABSL_GUARDED_BY(mutex_) = 0;
  bool network_retry_scheduled_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Duration network_retry_delay_ ABSL_GUARDED_BY(mutex_) = absl::Seconds(10);
};

// The time as records and views have it: ns since the epoch.
int64_t NowNanos();

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_MANAGER_IMPL_H_
