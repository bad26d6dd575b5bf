#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/spawn.h"
#include "sandbox/hello.h"
#include "sandbox/manager_impl.h"
#include "sandbox/netns_binding.h"
#include "sandbox/notification.h"
#include "sandbox/record_conversion.h"
#include "sandbox/records.h"
#include "sandbox/status_record.h"

namespace davit::sandbox {
namespace {

// All supervisors are asked at once. One that has not answered by then keeps its last known state
// and is reached in the background: the daemon must come up whatever a pod does.
constexpr absl::Duration kHelloTimeout = absl::Milliseconds(700);
constexpr absl::Duration kReconnectDelay = absl::Seconds(1);
constexpr absl::Duration kShutdownTimeout = absl::Seconds(5);
constexpr absl::Duration kGroupTimeout = absl::Seconds(5);

}  // namespace

// A pod whose directory was found.
struct ManagerImpl::FoundPod {
  PodPtr pod;
  OperationGate::Pass pass;  // nothing else happens to it before everything is known
  bool rebooted = false;     // it is of an earlier run of the machine
  bool has_supervisor = false;
  absl::Status reached = absl::UnavailableError("not asked");
};

absl::Status ManagerImpl::Recover() {
  std::vector<FoundPod> found;
  DAVIT_RETURN_IF_ERROR(ReadPods(&found));
  ReachAll(&found);
  // What is lost is settled in parallel: each waits for the kernel to kill and reap.
  Countdown settled(found.size());
  for (FoundPod& each : found) {
    workers_.Run([this, &each, &settled] {
      SettleFound(&each);
      settled.DecrementCount();
    });
  }
  settled.Wait();
  for (const FoundPod& each : found) {
    registry_.Add(each.pod);
    for (const ContainerPtr& container : each.pod->containers()) registry_.Add(container);
  }
  RemoveOrphanLayers();
  return absl::OkStatus();
}

absl::Status ManagerImpl::ReadPods(std::vector<FoundPod>* found) {
  const std::string directory = PodsDirectory();
  DAVIT_ASSIGN_OR_RETURN(const auto names, ListDirectory(directory));
  for (const std::string& name : names) {
    if (name == kSetAsideDirectory) continue;
    if (!IsId(name)) {
      PutAside(directory, name, absl::InvalidArgumentError("it is not named as a pod"));
      continue;
    }
    FoundPod pod;
    const absl::Status loaded = LoadPod(name, &pod);
    if (loaded.ok()) {
      LoadContainers(pod.pod);
      found->push_back(std::move(pod));
    } else if (absl::IsNotFound(loaded)) {
      // Its making, or its removal, was cut short; nobody counts on it.
      DiscardPod(name);
      sys::RemoveTreeAt(AT_FDCWD, absl::StrCat(directory, "/", name)).IgnoreError();
    } else if (absl::IsUnimplemented(loaded)) {
      left_alone_.insert(name);
      Report(Severity::kError, absl::StrCat("pod ", name, " is left alone: ", loaded.message()));
    } else {
      // What runs in it could never be stopped any more; what is left of it is for a person.
      DiscardPod(name);
      const auto containers = ListDirectory(absl::StrCat(directory, "/", name, "/containers"));
      for (const std::string& id : containers.value_or(std::vector<std::string>())) {
        if (IsId(id)) PutLayerAside(id);
      }
      PutAside(directory, name, loaded);
    }
  }
  return absl::OkStatus();
}

void ManagerImpl::PutAside(const std::string& directory, const std::string& name,
                           const absl::Status& why) {
  const auto path = SetAside(directory, name);
  Report(
      Severity::kError,
      absl::StrCat(directory, "/", name, " cannot be used: ", why.message(), "; ",
                   path.ok() ? absl::StrCat("it is now ", *path)
                             : absl::StrCat("moving it away failed: ", path.status().message())));
}

// What the container wrote: its record cannot say any more whose it is.
void ManagerImpl::PutLayerAside(const std::string& container_id) {
  const auto path = layers_->SetAside(container_id);
  if (absl::IsNotFound(path.status())) return;
  Report(Severity::kError, path.ok() ? absl::StrCat("the writable layer of container ",
                                                    container_id, " is now ", *path)
                                     : std::string(path.status().message()));
}

absl::Status ManagerImpl::LoadPod(const std::string& id, FoundPod* found) {
  const std::string directory = absl::StrCat(PodsDirectory(), "/", id);
  DAVIT_ASSIGN_OR_RETURN(auto record, ReadPodRecord(directory, Newer::kTake));
  if (IsPodMarkedStopped(directory)) record.set_ready(false);
  if (record.id() != id) {
    return absl::DataLossError(absl::StrCat("its record is of pod \"", record.id(), "\""));
  }
  DAVIT_ASSIGN_OR_RETURN(PodView view, FromRecord(record, directory, codec_));
  Pod::Fixed fixed;
  fixed.id = id;
  fixed.directory = directory;
  fixed.owns_cgroup = record.owns_cgroup();
  fixed.supervisor_leaf = record.supervisor_cgroup();
  fixed.boot_id = record.boot_id();
  fixed.newer_record = record.format_version() > kRecordVersion;
  if (fixed.newer_record) ReportNewer(absl::StrCat("pod ", id), record.format_version());
  auto name = registry_.pod_names().Reserve(view.spec.name_key, id);
  if (!name.ok()) {
    Report(Severity::kWarning, absl::StrCat("pod ", id, ": ", name.status().message()));
  }
  found->rebooted = record.boot_id() != boot_id_;
  found->has_supervisor = !found->rebooted && record.supervisor_pid() != 0;
  const PodPhase phase = record.ready() ? PodPhase::kReady : PodPhase::kNotReady;
  found->pod = std::make_shared<Pod>(std::move(fixed),
                                     name.ok() ? *std::move(name) : NameTable::Reservation(), phase,
                                     std::move(view));
  found->pass = found->pod->gate().EnterBlocking(OperationGate::Mode::kExclusive);
  return absl::OkStatus();
}

void ManagerImpl::ReportNewer(const std::string& what, uint32_t version) {
  Report(Severity::kError,
         absl::StrCat(NewerThanOurs(absl::StrCat("the record of ", what), version),
                      ": it is shown as far as it is understood, and left alone"));
}

void ManagerImpl::LoadContainers(const PodPtr& pod) {
  const std::string directory = absl::StrCat(pod->fixed().directory, "/containers");
  const auto names = ListDirectory(directory);
  if (!names.ok()) return Report(Severity::kError, std::string(names.status().message()));
  for (const std::string& name : *names) {
    if (name == kSetAsideDirectory) continue;
    const absl::Status loaded = IsId(name)
                                    ? LoadContainer(pod, name)
                                    : absl::InvalidArgumentError("it is not named as a container");
    if (loaded.ok()) continue;
    if (absl::IsNotFound(loaded)) {
      // Cut short, as above; the supervisor, if it knows of it, is told when it has been reached.
      sys::RemoveTreeAt(AT_FDCWD, absl::StrCat(directory, "/", name)).IgnoreError();
    } else {
      PutAside(directory, name, loaded);
      if (IsId(name)) PutLayerAside(name);
    }
  }
}

absl::Status ManagerImpl::LoadContainer(const PodPtr& pod, const std::string& id) {
  const std::string directory = absl::StrCat(pod->fixed().directory, "/containers/", id);
  auto record_or = ReadContainerRecord(directory, Newer::kTake);
  bool newer = absl::IsUnimplemented(record_or.status());
  if (newer) {
    // Nothing can be read of it, but that there is this container.
    Report(Severity::kError,
           absl::StrCat("container ", id, " is left alone: ", record_or.status().message()));
    record_or.emplace();
    record_or->set_id(id);
    record_or->set_pod_id(pod->id());
    record_or->set_name_key(id);
    record_or->set_cgroup_path(absl::StrCat(pod->view()->cgroup_path, "/", id));
    record_or->set_stop_signal(SIGTERM);
  } else if (record_or.ok() && record_or->format_version() > kRecordVersion) {
    newer = true;
    ReportNewer(absl::StrCat("container ", id), record_or->format_version());
  }
  if (!record_or.ok()) return record_or.status();
  state::v1::ContainerRecord& record = *record_or;
  if (record.id() != id || record.pod_id() != pod->id()) {
    return absl::DataLossError(absl::StrCat("its record is of container \"", record.id(),
                                            "\" of pod \"", record.pod_id(), "\""));
  }
  const std::string layer = layers_->DirectoryOf(id);
  auto view_or = FromRecord(record, directory, layer, codec_);
  if (!view_or.ok() && newer) {
    record.clear_metadata();
    view_or = FromRecord(record, directory, layer, codec_);
  }
  if (!view_or.ok()) return view_or.status();
  ContainerView view = *std::move(view_or);
  Container::Fixed fixed;
  fixed.id = id;
  fixed.pod = pod;
  fixed.directory = directory;
  fixed.layer_directory = layer;
  fixed.newer_record = newer;
  Container::Holds holds;
  auto name = registry_.container_names().Reserve(record.name_key(), id);
  if (name.ok()) {
    holds.name = *std::move(name);
  } else {
    Report(Severity::kWarning, absl::StrCat("container ", id, ": ", name.status().message()));
  }
  auto pin = images_->RepinLayers({record.lower_dirs().begin(), record.lower_dirs().end()});
  if (pin.ok()) {
    holds.pin = *std::move(pin);
  } else {
    Report(Severity::kError, absl::StrCat("the layers of container ", id,
                                          " cannot be kept: ", pin.status().message()));
  }
  pod->AddContainer(std::make_shared<Container>(
      std::move(fixed), std::move(holds),
      record.ended() ? ContainerPhase::kExited : ContainerPhase::kUnknown, std::move(view)));
  return absl::OkStatus();
}

void ManagerImpl::ReachAll(std::vector<FoundPod>* found) {
  size_t asked = 0;
  for (const FoundPod& each : *found) asked += each.has_supervisor ? 1 : 0;
  Countdown answered(asked);
  for (FoundPod& each : *found) {
    if (!each.has_supervisor) continue;
    Reach(each.pod, kHelloTimeout, [&each, &answered](absl::Status status) {
      each.reached = std::move(status);
      answered.DecrementCount();
    });
  }
  answered.Wait();
}

void ManagerImpl::SettleFound(FoundPod* found) {
  const PodPtr& pod = found->pod;
  if (found->reached.ok()) return DiscardUnfinished(pod);
  if (found->rebooted) {
    return SettleLostPod(pod, "the machine was restarted while it ran");
  }
  // Lost, and settled, before this daemon's time.
  if (!found->has_supervisor) return SettleLostPod(pod, "");
  if (!pod->pidfd().ok()) {
    pod->ClaimLoss();
    return SettleLostPod(pod, "its supervisor ended while davitd did not run");
  }
  Report(Severity::kWarning, absl::StrCat("the supervisor of pod ", pod->id(),
                                          " does not answer yet: ", found->reached.message()));
  for (const ContainerPtr& container : pod->containers()) {
    const auto status = ReadStatus(absl::StrCat(container->fixed().directory, "/status"));
    if (status.ok()) Adopt(container, *status);
  }
  ScheduleReconnect(pod, kReconnectDelay);
}

void ManagerImpl::DiscardUnfinished(const PodPtr& pod) {
  for (const ContainerPtr& container : pod->containers()) {
    // The supervisor has answered and does not know it, or is still creating it for a daemon that
    // is no more.
    if (container->phase() != ContainerPhase::kUnknown) continue;
    if (container->fixed().newer_record) continue;
    const OperationGate::Pass pass =
        container->gate().EnterBlocking(OperationGate::Mode::kExclusive);
    if (container->phase() != ContainerPhase::kUnknown) continue;
    const absl::Status removed = RemoveContainerLocked(container);
    if (!removed.ok()) Report(Severity::kError, std::string(removed.message()));
  }
}

void ManagerImpl::DiscardPod(const std::string& id) {
  const std::string directory = absl::StrCat(PodsDirectory(), "/", id);
  auto socket = sys::SeqpacketConnect(absl::StrCat(directory, "/supervisor.sock"));
  const auto peer =
      socket.ok() ? sys::PeerOf(socket->get()) : absl::StatusOr<sys::Peer>(socket.status());
  if (peer.ok() && (options_.trust_any_supervisor || IsSupervisor(peer->pid))) {
    auto client = SupervisorClient::Start(loop_.get(), *std::move(socket), {});
    if (client.ok()) {
      // Without Hello nothing else is served; and what the pod's containers were put into is known
      // to the supervisor alone. One that hangs must not hold the start up.
      if ((*client)->CallAndWait(HelloRequest(), {}, kHelloTimeout).ok()) {
        supervisor::v1::ToSupervisor request;
        request.mutable_shutdown();
        (*client)->CallAndWait(std::move(request), {}, kShutdownTimeout).IgnoreError();
      }
      (*client)->Close();
    }
    sys::KillPidfd(peer->pidfd.get(), SIGKILL).IgnoreError();
  }
  absl::Status status = KillLeaf(launcher_->LeafOf(id));
  const std::string group = absl::StrCat(options_.cgroup_parent, "/", id);
  if (status.ok()) status = groups_->KillAll(group, absl::Now() + kGroupTimeout);
  if (status.ok()) status = groups_->Remove(group, absl::Now() + kGroupTimeout);
  // Plugins find their interfaces by the binding: where DEL is owed it stays until that is done.
  bool attached = false;
  for (const cni::StoredAttachment& attachment : network_->List()) {
    attached = attached || attachment.sandbox_id == id;
  }
  if (status.ok() && !attached) {
    status = RemoveNetnsBinding(absl::StrCat(options_.netns_dir, "/davit-", id));
  }
  if (!status.ok()) {
    Report(Severity::kError,
           absl::StrCat("clearing away the unfinished pod ", id, ": ", status.message()));
  }
}

void ManagerImpl::RemoveOrphanLayers() {
  // Which layers are theirs only their records tell.
  if (!left_alone_.empty()) return;
  const auto ids = layers_->List();
  if (!ids.ok()) return Report(Severity::kError, std::string(ids.status().message()));
  std::set<std::string> known;
  for (const ContainerPtr& container : registry_.Containers()) known.insert(container->id());
  for (const std::string& id : *ids) {
    if (known.count(id) != 0) continue;
    const absl::Status removed = layers_->Remove(id);
    if (!removed.ok()) Report(Severity::kError, std::string(removed.message()));
  }
}

}  // namespace davit::sandbox
