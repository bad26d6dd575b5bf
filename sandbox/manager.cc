#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/sys/capability.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/lock.h"
#include "sandbox/manager_impl.h"
#include "sandbox/records.h"

namespace davit::sandbox {
namespace {

// Between tries of what could not be cleared away.
constexpr absl::Duration kFirstRetry = absl::Milliseconds(500);
constexpr absl::Duration kLongestRetry = absl::Minutes(1);

}  // namespace

absl::StatusOr<std::unique_ptr<Manager>> Manager::Open(ManagerOptions options, MetadataCodec codec,
                                                       images::ImageService* images) {
  auto manager = std::make_unique<ManagerImpl>(std::move(options), std::move(codec), images);
  DAVIT_RETURN_IF_ERROR(manager->Start());
  return manager;
}

std::vector<sys::OperationSteps> Manager::Steps() { return ManagerImpl::Steps(); }

std::vector<sys::OperationSteps> ManagerImpl::Steps() {
  return {RunPodSteps().Names(),          CreateContainerSteps().Names(),
          StartContainerSteps().Names(),  StopContainerSteps().Names(),
          RemoveContainerSteps().Names(), EndPodSteps().Names(),
          StopPodSteps().Names(),         RemovePodSteps().Names()};
}

ManagerImpl::ManagerImpl(ManagerOptions options, MetadataCodec codec, images::ImageService* images)
    : options_(std::move(options)),
      codec_(std::move(codec)),
      images_(images),
      upgrade_supervisors_(options_.upgrade_supervisors) {}

ManagerImpl::~ManagerImpl() { Shutdown(); }

absl::Status ManagerImpl::Start() {
  DAVIT_RETURN_IF_ERROR(OpenParts());
  DAVIT_RETURN_IF_ERROR(Recover());
  images_->StartGarbageCollection();
  ScheduleNetworkRetry(absl::ZeroDuration());
  return absl::OkStatus();
}

absl::Status ManagerImpl::OpenParts() {
  // Nobody but root has business with specs, environment variables and logs of pods.
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(options_.state, 0711));
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(options_.root, 0711));
  DAVIT_ASSIGN_OR_RETURN(lock_, LockDirectory(options_.state));
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(PodsDirectory(), 0711));
  DAVIT_ASSIGN_OR_RETURN(boot_id_, ReadBootId());

  node_.features = options_.features.has_value() ? *options_.features : sys::ProbeKernel();
  DAVIT_ASSIGN_OR_RETURN(node_.layout, runtime::cgroup::DetectLayout());
  DAVIT_ASSIGN_OR_RETURN(node_.limits, ReadProcessLimits());
  node_.state_directory = options_.state;
  node_.refuse_missing_host_paths = options_.refuse_missing_host_paths;
  DAVIT_ASSIGN_OR_RETURN(const int last_capability, sys::LastCapability());
  for (const std::string& sentence :
       DescribeLimits(node_.limits, sys::CapabilityBit(last_capability + 1) - 1)) {
    Report(Severity::kWarning, sentence);
  }

  DAVIT_ASSIGN_OR_RETURN(
      groups_, runtime::cgroup::Groups::Create(runtime::cgroup::Driver::kCgroupfs, node_.layout));
  DAVIT_ASSIGN_OR_RETURN(launcher_, SupervisorLauncher::Create(options_.supervisor, options_.init));
  cni::NetworkOptions network;
  network.conf_dir = options_.cni_conf_dir;
  network.bin_dirs = options_.cni_bin_dirs;
  network.state_dir = absl::StrCat(options_.root, "/cni");
  network.plugin_timeout = options_.cni_timeout;
  DAVIT_ASSIGN_OR_RETURN(network_, cni::Network::Open(std::move(network)));
  DAVIT_ASSIGN_OR_RETURN(layers_, WritableLayers::Open(options_.root));
  DAVIT_ASSIGN_OR_RETURN(loop_, IoLoop::Start());
  return absl::OkStatus();
}

ManagerImpl::CallInProgress::CallInProgress(ManagerImpl* manager) : manager_(manager) {
  sys::MutexLock lock(&manager_->mutex_);
  ++manager_->calls_;
  if (manager_->shutting_down_) status_ = absl::UnavailableError("davitd is shutting down");
}

ManagerImpl::CallInProgress::~CallInProgress() {
  sys::MutexLock lock(&manager_->mutex_);
  if (--manager_->calls_ == 0) manager_->calls_changed_.SignalAll();
}

void ManagerImpl::Shutdown() {
  {
    sys::MutexLock lock(&mutex_);
    if (shutting_down_.exchange(true)) return;
  }
  if (loop_ == nullptr) return;
  // In this order: flows that wait for a supervisor or an exit get an error and end, or end by
  // themselves; then the workers, which run others, can be waited for; the loop goes last, since
  // all of them need it.
  CloseConnections();
  {
    sys::MutexLock lock(&mutex_);
    while (calls_ > 0) calls_changed_.Wait(&mutex_);
  }
  CloseConnections();  // of a pod that came to be meanwhile
  workers_.Stop();
  loop_->Stop();
  registry_.Clear();
}

void ManagerImpl::CloseConnections() {
  const absl::Status ending = absl::UnavailableError("davitd is shutting down");
  for (const PodPtr& pod : registry_.Pods()) {
    for (const ContainerPtr& container : pod->containers()) container->Abandon(ending);
    if (const auto client = pod->client(); client != nullptr) client->Close();
  }
}

void ManagerImpl::Report(Severity severity, const std::string& message) const {
  if (options_.report) options_.report(severity, message);
}

void ManagerImpl::ClearAway(const std::string& what, std::function<absl::Status()> step) {
  const absl::Status status = step();
  if (status.ok()) return;
  Report(Severity::kError,
         absl::StrCat("clearing away ", what, " failed and is tried again: ", status.message()));
  ClearAwayLater(what, std::move(step), kFirstRetry);
}

void ManagerImpl::ClearAwayLater(const std::string& what, std::function<absl::Status()> step,
                                 absl::Duration delay) {
  loop_->After(delay, [this, what, step = std::move(step), delay] {
    if (shutting_down_) return;
    workers_.Run([this, what, step, delay] {
      if (shutting_down_) return;
      if (step().ok()) {
        return Report(Severity::kInfo, absl::StrCat("cleared away ", what, " after all"));
      }
      ClearAwayLater(what, step, std::min(2 * delay, kLongestRetry));
    });
  });
}

std::string ManagerImpl::PodsDirectory() const { return absl::StrCat(options_.state, "/pods"); }

std::string ManagerImpl::HandOnFault(std::initializer_list<const char*> operations) const {
  if (options_.faults == nullptr) return "";
  for (const char* operation : operations) {
    const auto order = options_.faults->For(operation);
    if (!order.has_value()) continue;
    options_.faults->Spend();
    return sys::FormatFaultOrder(*order);
  }
  return "";
}

PodTraits ManagerImpl::TraitsOf(const Pod& pod) const {
  const Pod::View view = pod.view();
  PodTraits traits;
  traits.network = view->spec.network;
  traits.ipc = view->spec.ipc;
  traits.pid = view->spec.pid;
  traits.netns_path = view->netns_path;
  traits.supervisor_pid = view->pid;
  traits.init_pid = pod.init_pid();
  traits.uid_mappings = view->spec.uid_mappings;
  traits.gid_mappings = view->spec.gid_mappings;
  return traits;
}

absl::StatusOr<std::shared_ptr<const PodView>> ManagerImpl::FindPod(absl::string_view id) const {
  DAVIT_ASSIGN_OR_RETURN(const PodPtr pod, registry_.FindPod(id));
  return pod->view();
}

absl::StatusOr<std::shared_ptr<const ContainerView>> ManagerImpl::FindContainer(
    absl::string_view id) const {
  DAVIT_ASSIGN_OR_RETURN(const ContainerPtr container, registry_.FindContainer(id));
  return container->view();
}

std::vector<std::shared_ptr<const PodView>> ManagerImpl::ListPods() const {
  std::vector<std::shared_ptr<const PodView>> views;
  for (const PodPtr& pod : registry_.Pods()) views.push_back(pod->view());
  return views;
}

std::vector<std::shared_ptr<const ContainerView>> ManagerImpl::ListContainers() const {
  std::vector<std::shared_ptr<const ContainerView>> views;
  for (const ContainerPtr& container : registry_.Containers()) views.push_back(container->view());
  return views;
}

NetworkStatus ManagerImpl::Network() const { return network_->Status(); }

std::string ManagerImpl::CniConfigJson() const { return network_->ConfigJson(); }

absl::Status ManagerImpl::ReopenLog(const std::string& id) {
  const CallInProgress call(this);
  DAVIT_RETURN_IF_ERROR(call.status());
  DAVIT_ASSIGN_OR_RETURN(const ContainerPtr container, registry_.FindContainer(id));
  if (container->phase() != ContainerPhase::kRunning) {
    return absl::FailedPreconditionError(absl::StrCat("reopen the log of container ", id,
                                                      ": it is ", PhaseName(container->phase())));
  }
  const auto client = container->fixed().pod->client();
  if (client == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("reopen the log of container ", id, ": its supervisor cannot be reached"));
  }
  supervisor::v1::ToSupervisor request;
  request.mutable_reopen_log()->set_container_id(container->id());
  return sys::Annotate(client->CallAndWait(std::move(request), {}, absl::Seconds(30)).status(),
                       absl::StrCat("reopen the log of container ", id));
}

int64_t NowNanos() { return absl::GetCurrentTimeNanos(); }

}  // namespace davit::sandbox
