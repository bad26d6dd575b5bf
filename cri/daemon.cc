#include "cri/daemon.h"

#include <unistd.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cri/container_service.h"
#include "cri/helpers.h"
#include "cri/idle_pages.h"
#include "cri/image_methods.h"
#include "cri/log.h"
#include "cri/metadata.h"
#include "cri/node.h"
#include "cri/node_service.h"
#include "cri/pod_service.h"
#include "cri/server.h"
#include "cri/stats_service.h"
#include "cri/worker_pool.h"
#include "images/image_service.h"
#include "runtime/cgroup/layout.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/features.h"
#include "runtime/sys/file.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/lock.h"
#include "sandbox/manager.h"

namespace davit::cri {
namespace {

// Blocking calls at a time; each holds a thread only while it works.
constexpr int kMaxWorkers = 64;
constexpr size_t kMaxQueuedCalls = 4096;
constexpr absl::Duration kWorkerIdleTime = absl::Seconds(10);
// How long a stop waits for calls in flight before it cancels them, and then for their threads.
constexpr absl::Duration kStopGrace = absl::Seconds(2);
constexpr absl::Duration kWorkerGrace = absl::Seconds(10);

LogLevel ToLevel(sandbox::Severity severity) {
  switch (severity) {
    case sandbox::Severity::kInfo:
      return LogLevel::kInfo;
    case sandbox::Severity::kWarning:
      return LogLevel::kWarn;
    case sandbox::Severity::kError:
      break;
  }
  return LogLevel::kError;
}

images::ImageServiceOptions ImageOptions(const Config& config, const Helpers& helpers,
                                         sys::Faults* faults) {
  images::ImageServiceOptions options;
  options.root = absl::StrCat(config.root, "/images");
  options.unpack_helper = helpers.unpack;
  options.registries = config.registries;
  options.pinned = config.pinned_images;
  options.max_parallel_layers = config.max_parallel_layers;
  options.keep_layer_blobs = config.keep_layer_blobs;
  options.stall_timeout = config.stall_timeout;
  options.faults = faults;
  return options;
}

sandbox::ManagerOptions ManagerOptions(const Config& config, const Helpers& helpers,
                                       const sys::KernelFeatures& features, sys::Faults* faults) {
  sandbox::ManagerOptions options;
  options.root = config.root;
  options.state = config.state;
  options.supervisor = helpers.pod;
  options.init = helpers.init;
  options.cgroup_parent = config.cgroup_parent;
  options.netns_dir = config.netns_dir;
  options.cni_conf_dir = config.cni_conf_dir;
  options.cni_bin_dirs = config.cni_bin_dirs;
  options.cni_timeout = config.cni_timeout;
  options.refuse_missing_host_paths = config.refuse_missing_host_paths;
  options.log_buffer_size = config.log_buffer_size;
  options.log_drop_when_full = config.log_drop_when_full;
  options.upgrade_supervisors = config.upgrade_supervisors;
  options.features = features;
  options.faults = faults;
  options.report = [](sandbox::Severity severity, const std::string& message) {
    Log(ToLevel(severity), message);
  };
  return options;
}

class DaemonImpl final : public Daemon {
 public:
  ~DaemonImpl() override {
    if (!Stop()) ::_exit(1);
  }

  absl::Status Begin(const Config& config) {
    const absl::Time begun = absl::Now();
    DAVIT_ASSIGN_OR_RETURN(const Helpers helpers, FindHelpers(config.helper_dir));
    DAVIT_RETURN_IF_ERROR(LockRoot(config));
    DAVIT_RETURN_IF_ERROR(ProbeNode(config));
    if (!config.faults_path.empty()) faults_.emplace(sys::Faults::FromFile(config.faults_path));
    sys::Faults* const faults = faults_.has_value() ? &*faults_ : nullptr;
    DAVIT_ASSIGN_OR_RETURN(images_,
                           images::ImageService::Open(ImageOptions(config, helpers, faults)));
    DAVIT_ASSIGN_OR_RETURN(
        manager_, sandbox::Manager::Open(ManagerOptions(config, helpers, node_.features, faults),
                                         Codec(), images_.get()));
    DAVIT_RETURN_IF_ERROR(Serve(config));
    Log(LogLevel::kInfo, "serving",
        {{"socket", config.socket_path()},
         {"pods", absl::StrCat(manager_->ListPods().size())},
         {"containers", absl::StrCat(manager_->ListContainers().size())},
         {"images", absl::StrCat(images_->List().size())},
         {"ms", absl::StrCat(absl::ToInt64Milliseconds(absl::Now() - begun))}});
    return absl::OkStatus();
  }

  void Reload(const Config& config) override {
    SetLogLevel(config.log_level);
    images_->SetRegistries(config.registries);
    manager_->SetUpgradeSupervisors(config.upgrade_supervisors);
    Log(LogLevel::kInfo, "configuration read again",
        {{"registries", absl::StrCat(config.registries.size())}});
  }

  bool Stop() override {
    if (server_ != nullptr) server_->Shutdown(kStopGrace);
    server_ = nullptr;
    if (workers_ && !workers_->WaitIdle(absl::Now() + kWorkerGrace)) {
      Log(LogLevel::kWarn, "calls still work on something; they are left to the next start");
      return false;
    }
    workers_.reset();
    if (manager_ != nullptr) manager_->Shutdown();
    manager_ = nullptr;
    images_ = nullptr;
    return true;
  }

 private:
  // Before anything is opened: what looks half done in there may be another davitd's work. The
  // manager locks the state directory in the same way.
  absl::Status LockRoot(const Config& config) {
    DAVIT_RETURN_IF_ERROR(sys::MakeDirs(config.root, 0711));
    DAVIT_RETURN_IF_ERROR(sys::MakeDirs(config.state, 0711));
    DAVIT_ASSIGN_OR_RETURN(root_lock_, sandbox::LockDirectory(config.root));
    return absl::OkStatus();
  }

  absl::Status ProbeNode(const Config& config) {
    sys::KernelFeatures features = sys::ProbeKernel();
    Log(LogLevel::kInfo, absl::StrCat("kernel: ", sys::Describe(features)));
    DAVIT_RETURN_IF_ERROR(sys::CheckKernelFloor(features));
    DAVIT_ASSIGN_OR_RETURN(node_, InspectNode(std::move(features)));
    node_.user_namespaces = sys::CheckUserNamespaces(node_.features);
    if (node_.user_namespaces.ok() && !sys::CanIdMap(config.root)) {
      node_.user_namespaces = absl::FailedPreconditionError(
          absl::StrCat("user namespaces for pods are not possible: the file system of ",
                       config.root, " cannot be id-mapped"));
    }
    return absl::OkStatus();
  }

  absl::Status Serve(const Config& config) {
    std::vector<Method> methods = NodeMethods({manager_.get(), node_, ConfigJson(config)});
    const auto add = [&](std::vector<Method> more) {
      for (Method& method : more) methods.push_back(std::move(method));
    };
    add(PodMethods(manager_.get(),
                   {config.unprivileged_ports, config.unprivileged_icmp, node_.user_namespaces}));
    add(ContainerMethods(manager_.get(), images_.get(), node_));
    add(ImageMethods(images_.get()));
    DAVIT_ASSIGN_OR_RETURN(runtime::cgroup::Layout layout, runtime::cgroup::DetectLayout());
    add(StatsMethods(manager_.get(), std::move(layout), images_->Usage().mountpoint));
    workers_.emplace(kMaxWorkers, kMaxQueuedCalls, kWorkerIdleTime, ReleaseIdlePages);
    ServerOptions options;
    options.socket_path = config.socket_path();
    DAVIT_ASSIGN_OR_RETURN(server_, Server::Start(options, std::move(methods), &*workers_));
    return absl::OkStatus();
  }

  // In the order of their making; Stop ends them in the opposite one.
  sys::UniqueFd root_lock_;
  Node node_;
  std::optional<sys::Faults> faults_;
  std::unique_ptr<images::ImageService> images_;
  std::unique_ptr<sandbox::Manager> manager_;
  std::optional<WorkerPool> workers_;
  std::unique_ptr<Server> server_;
};

}  // namespace

std::vector<sys::OperationSteps> Daemon::Steps() {
  std::vector<sys::OperationSteps> steps = sandbox::Manager::Steps();
  for (sys::OperationSteps& more : images::ImageService::Steps()) steps.push_back(std::move(more));
  return steps;
}

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const Config& config) {
  auto daemon = std::make_unique<DaemonImpl>();
  DAVIT_RETURN_IF_ERROR(daemon->Begin(config));
  return daemon;
}

}  // namespace davit::cri
