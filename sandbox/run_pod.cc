#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/spec/id_mapping.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/hello.h"
#include "sandbox/manager_impl.h"
#include "sandbox/pod_files.h"
#include "sandbox/pod_sysctls.h"
#include "sandbox/protocol_version.h"
#include "sandbox/record_conversion.h"
#include "sandbox/records.h"

namespace davit::sandbox {
namespace {

// How long a fresh supervisor may take to make its namespaces and answer. It takes a millisecond;
// this bounds a machine in trouble.
constexpr absl::Duration kHelloTimeout = absl::Seconds(30);
constexpr absl::Duration kGroupTimeout = absl::Seconds(5);
constexpr int kSupervisorOomScore = -998;  // as peers give their sandboxes

absl::Status CheckSpec(const PodSpec& spec) {
  if (spec.name_key.empty()) return absl::InvalidArgumentError("it has no name");
  if (spec.network != NamespaceMode::kPod && spec.network != NamespaceMode::kNode) {
    return absl::InvalidArgumentError("the network namespace is the pod's or the node's");
  }
  if (spec.ipc != NamespaceMode::kPod && spec.ipc != NamespaceMode::kNode) {
    return absl::InvalidArgumentError("the IPC namespace is the pod's or the node's");
  }
  if (spec.pid == NamespaceMode::kTarget) {
    return absl::InvalidArgumentError("only a container can join the PID namespace of another");
  }
  DAVIT_RETURN_IF_ERROR(CheckHostname(spec.hostname));
  if (spec.dns.has_value()) DAVIT_RETURN_IF_ERROR(CheckDns(*spec.dns));
  if (!spec.cgroup_parent.empty()) {
    DAVIT_RETURN_IF_ERROR(
        sys::Annotate(runtime::cgroup::CheckGroupPath(spec.cgroup_parent), "its cgroup parent"));
  }
  return absl::OkStatus();
}

// Procfs, sysfs, message queues and so on of namespaces that the pod's user namespace does not own
// cannot be mounted in it.
absl::Status CheckUserNamespace(const PodSpec& spec, const sys::KernelFeatures& features) {
  if (spec.uid_mappings.empty() && spec.gid_mappings.empty()) return absl::OkStatus();
  DAVIT_RETURN_IF_ERROR(
      sys::Annotate(runtime::spec::CheckMappings(spec.uid_mappings), "user namespace: uids"));
  DAVIT_RETURN_IF_ERROR(
      sys::Annotate(runtime::spec::CheckMappings(spec.gid_mappings), "user namespace: gids"));
  if (!runtime::spec::HostId(spec.uid_mappings, 0) ||
      !runtime::spec::HostId(spec.gid_mappings, 0)) {
    return absl::InvalidArgumentError("user namespace: id 0 is not mapped");
  }
  if (spec.ipc == NamespaceMode::kNode || spec.pid == NamespaceMode::kNode) {
    return absl::InvalidArgumentError(
        "a pod with a user namespace cannot have the node's IPC or PID namespace");
  }
  return sys::CheckUserNamespaces(features);
}

}  // namespace

// A pod on its way; what it holds goes with it unless the pod is published.
struct ManagerImpl::PodRun {
  PodSpec spec;
  std::string id;
  std::map<std::string, std::string> sysctls;
  PodPtr pod;
  OperationGate::Pass pass;
  std::shared_ptr<SupervisorClient> client;
  std::shared_ptr<void> attaching;  // lets go of the mark in attaching_
  Undo undo;                        // last: its steps run first, under the gate
};

const ManagerImpl::PodOperation& ManagerImpl::RunPodSteps() {
  // The supervisor makes its namespaces while the steps between its start and its answer are done.
  static const PodOperation steps(
      "run pod", {{"check the request", &ManagerImpl::CheckPod, sys::StepKind::kRequest},
                  {"reserve its name", &ManagerImpl::ReservePod, sys::StepKind::kRequest},
                  {"make its directory", &ManagerImpl::MakePodDirectory},
                  {"start its supervisor", &ManagerImpl::StartSupervisor},
                  {"make its cgroup", &ManagerImpl::MakePodGroup},
                  {"write its files", &ManagerImpl::WritePodFilesStep},
                  {"await its supervisor", &ManagerImpl::AwaitSupervisor},
                  {"attach its network", &ManagerImpl::AttachNetwork},
                  {"watch its supervisor", &ManagerImpl::WatchNewSupervisor},
                  {"write its record", &ManagerImpl::WriteNewPodRecord}});
  return steps;
}

absl::StatusOr<std::string> ManagerImpl::RunPod(PodSpec spec) {
  const CallInProgress call(this);
  DAVIT_RETURN_IF_ERROR(call.status());
  PodRun run;
  run.spec = std::move(spec);
  const absl::Status status = RunPodSteps().Run(this, options_.faults, &run);
  if (!status.ok()) {
    return sys::Annotate(status, absl::StrCat("run pod \"", run.spec.name_key, "\""));
  }
  registry_.Add(run.pod);
  run.undo.Dismiss();
  return run.id;
}

absl::Status ManagerImpl::CheckPod(PodRun* run) {
  DAVIT_RETURN_IF_ERROR(CheckSpec(run->spec));
  DAVIT_RETURN_IF_ERROR(CheckUserNamespace(run->spec, node_.features));
  DAVIT_ASSIGN_OR_RETURN(run->sysctls, PodSysctls(run->spec));
  if (run->spec.network != NamespaceMode::kPod) return absl::OkStatus();
  const NetworkStatus network = network_->Status();
  if (network.ready) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("no pod network: ", network.reason, ": ", network.message));
}

absl::Status ManagerImpl::ReservePod(PodRun* run) {
  run->id = NewId();
  Pod::Fixed fixed;
  fixed.id = run->id;
  DAVIT_ASSIGN_OR_RETURN(auto name, registry_.pod_names().Reserve(run->spec.name_key, run->id));
  fixed.directory = absl::StrCat(PodsDirectory(), "/", run->id);
  fixed.owns_cgroup = run->spec.cgroup_parent.empty();
  fixed.supervisor_leaf = launcher_->LeafOf(run->id);
  fixed.boot_id = boot_id_;

  PodView view;
  view.id = run->id;
  view.created_at = NowNanos();
  view.cgroup_path = fixed.owns_cgroup ? absl::StrCat(options_.cgroup_parent, "/", run->id)
                                       : run->spec.cgroup_parent;
  if (run->spec.network == NamespaceMode::kPod) {
    view.netns_path = absl::StrCat(options_.netns_dir, "/davit-", run->id);
  }
  view.runtime_handler = run->spec.runtime_handler;
  view.hostname_path = absl::StrCat(fixed.directory, "/", kHostnameFile);
  view.hosts_path = absl::StrCat(fixed.directory, "/", kHostsFile);
  view.resolv_conf_path = absl::StrCat(fixed.directory, "/", kResolvConfFile);
  view.spec = run->spec;
  view.metadata = run->spec.metadata;
  run->pod = std::make_shared<Pod>(std::move(fixed), std::move(name), PodPhase::kCreating,
                                   std::move(view));
  run->undo.Add([pod = run->pod] { pod->ReleaseName(); });
  run->pass = run->pod->gate().EnterBlocking(OperationGate::Mode::kExclusive);
  return absl::OkStatus();
}

absl::Status ManagerImpl::MakePodDirectory(PodRun* run) {
  const std::string& directory = run->pod->fixed().directory;
  if (mkdir(directory.c_str(), 0711) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("make pod directory ", directory));
  }
  run->undo.Add([this, directory] {
    ClearAway(directory, [directory] { return sys::RemoveTreeAt(AT_FDCWD, directory); });
  });
  if (mkdir(absl::StrCat(directory, "/containers").c_str(), 0711) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("make ", directory, "/containers"));
  }
  return absl::OkStatus();
}

absl::Status ManagerImpl::StartSupervisor(PodRun* run) {
  supervisor::v1::PodConfig config;
  config.set_protocol_version(kProtocolVersion);
  config.set_program_id(launcher_->program_id());
  config.set_sandbox_id(run->id);
  config.set_pod_dir(run->pod->fixed().directory);
  config.set_new_network_namespace(run->spec.network == NamespaceMode::kPod);
  config.set_new_uts_namespace(run->spec.network == NamespaceMode::kPod);
  config.set_new_ipc_namespace(run->spec.ipc == NamespaceMode::kPod);
  config.set_shared_pid_namespace(run->spec.pid == NamespaceMode::kPod);
  config.set_netns_path(run->pod->view()->netns_path);
  SetMaps(run->spec.uid_mappings, config.mutable_uid_maps());
  SetMaps(run->spec.gid_mappings, config.mutable_gid_maps());
  if (config.new_uts_namespace()) config.set_hostname(run->spec.hostname);
  for (const auto& [name, value] : run->sysctls) (*config.mutable_sysctls())[name] = value;
  config.set_log_buffer_size(options_.log_buffer_size);
  config.set_log_drop_when_full(options_.log_drop_when_full);
  config.set_oom_score_adj(std::max(kSupervisorOomScore, node_.limits.oom_score_adj_floor));
  config.set_fault(HandOnFault({"set up supervisor", "set up pod"}));
  DAVIT_ASSIGN_OR_RETURN(SupervisorLauncher::Process process, launcher_->Start(config));
  Pod::Process kept;
  kept.pidfd = std::move(process.pidfd);
  run->pod->set_process(std::move(kept));
  run->pod->Edit([&](PodView* view) { view->pid = process.pid; });
  run->undo.Add([this, pod = run->pod] {
    ClearAway(absl::StrCat("the supervisor of pod ", pod->id()),
              [this, pod] { return EndSupervisor(pod); });
  });
  absl::Status status;
  run->client = ConnectClient(run->pod, std::move(process.socket), &status);
  return status;
}

absl::Status ManagerImpl::MakePodGroup(PodRun* run) {
  const std::string group = run->pod->view()->cgroup_path;
  if (run->pod->fixed().owns_cgroup) {
    run->undo.Add([this, group] {
      ClearAway(absl::StrCat("cgroup ", group),
                [this, group] { return groups_->Remove(group, absl::Now() + kGroupTimeout); });
    });
  }
  DAVIT_RETURN_IF_ERROR(
      sys::Annotate(groups_->MakeParent(group), absl::StrCat("make the pod's cgroup ", group)));
  // A v1 cpuset starts empty, and nothing can run in it, unless its parent says that it inherits.
  const int cpuset = node_.layout.Find("cpuset");
  if (cpuset < 0 || node_.layout.hierarchies[cpuset].is_v2) return absl::OkStatus();
  return sys::WriteExistingAt(
      AT_FDCWD, absl::StrCat(node_.layout.Directory(cpuset, group), "/cgroup.clone_children"), "1");
}

absl::Status ManagerImpl::WritePodFilesStep(PodRun* run) {
  return WritePodFiles(run->pod->fixed().directory, run->spec.hostname, run->spec.dns);
}

absl::Status ManagerImpl::AwaitSupervisor(PodRun* run) {
  DAVIT_ASSIGN_OR_RETURN(auto answer, run->client->CallAndWait(HelloRequest(), {}, kHelloTimeout));
  run->pod->set_init_pid(answer.reply.hello().init_pid());
  return NoteBuild(run->pod, answer.reply.hello());
}

cni::Request ManagerImpl::NetworkRequest(const PodView& view) {
  cni::Request request;
  request.sandbox_id = view.id;
  request.netns_path = view.netns_path;
  request.pod_name = view.spec.name;
  request.pod_namespace = view.spec.name_space;
  request.pod_uid = view.spec.uid;
  request.port_mappings = view.spec.port_mappings;
  request.dns = view.spec.dns;
  request.annotations = view.spec.annotations;
  return request;
}

absl::Status ManagerImpl::AttachNetwork(PodRun* run) {
  if (run->spec.network != NamespaceMode::kPod) return absl::OkStatus();
  const cni::Request request = NetworkRequest(*run->pod->view());
  {
    sys::MutexLock lock(&mutex_);
    attaching_.insert(run->id);
  }
  // Until the pod is published or undone: a retry of old DELs must not take it for a leftover.
  run->attaching = std::shared_ptr<void>(nullptr, [this, id = run->id](void*) {
    sys::MutexLock lock(&mutex_);
    attaching_.erase(id);
  });
  const absl::Time deadline = absl::Now() + options_.cni_timeout;
  auto result = network_->Add(request, deadline);
  if (!result.ok()) {
    // Add has run DEL itself; if that failed as well, it is owed and tried again from now on.
    ScheduleNetworkRetry(absl::Seconds(10));
    return result.status();
  }
  run->undo.Add([this, pod = run->pod] {
    const absl::Status down = TakeNetworkDown(pod);
    if (!down.ok()) Report(Severity::kError, std::string(down.message()));
  });
  run->pod->Edit([&](PodView* edited) {
    edited->ips = std::move(result->ips);
    edited->cni_result = std::move(result->json);
  });
  if (!run->client->connected()) {
    return absl::UnavailableError("the pod's supervisor ended while the network was attached");
  }
  return absl::OkStatus();
}

absl::Status ManagerImpl::WatchNewSupervisor(PodRun* run) { return WatchSupervisor(run->pod); }

absl::Status ManagerImpl::WriteNewPodRecord(PodRun* run) {
  DAVIT_RETURN_IF_ERROR(run->pod->Change(PodPhase::kReady, [](PodView*) {}));
  // Last: a directory with a record is a pod that somebody has been told of.
  return UpdatePodRecord(run->pod);
}

std::shared_ptr<SupervisorClient> ManagerImpl::ConnectClient(const PodPtr& pod,
                                                             sys::UniqueFd socket,
                                                             absl::Status* status) {
  // Weak: the pod holds its client, and a client must not hold its pod.
  std::weak_ptr<Pod> weak = pod;
  SupervisorClient::Listener listener;
  listener.event = [this, weak](const supervisor::v1::FromSupervisor& event) {
    if (const PodPtr alive = weak.lock(); alive != nullptr) OnEvent(alive, event);
  };
  listener.closed = [this, weak](const absl::Status&) {
    if (const PodPtr alive = weak.lock(); alive != nullptr) OnConnectionClosed(alive);
  };
  auto client = SupervisorClient::Start(loop_.get(), std::move(socket), std::move(listener));
  *status = client.status();
  if (!client.ok()) return nullptr;
  pod->set_client(*client);
  return *client;
}

absl::Status ManagerImpl::WatchSupervisor(const PodPtr& pod) {
  Pod::Process process = pod->take_process();
  std::weak_ptr<Pod> weak = pod;
  auto watch = loop_->Watch(process.pidfd.get(), EPOLLIN, [this, weak](uint32_t) {
    if (const PodPtr alive = weak.lock(); alive != nullptr) OnSupervisorGone(alive);
  });
  if (watch.ok()) process.watch = *watch;
  pod->set_process(std::move(process));
  return watch.status();
}

}  // namespace davit::sandbox
