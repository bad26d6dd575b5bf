#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"
#include "sandbox/manager_impl.h"
#include "sandbox/netns_binding.h"
#include "sandbox/record_conversion.h"
#include "sandbox/records.h"

namespace davit::sandbox {
namespace {

// For SIGKILLed containers to be reaped and reported, once their supervisor has had its time. What
// takes longer sits in the kernel, on a dead file server say; the caller retries.
constexpr absl::Duration kKillTimeout = absl::Seconds(10);
constexpr absl::Duration kShutdownTimeout = absl::Seconds(10);
// From the last answer, or from SIGKILL, to the end. What takes longer sits in the kernel.
constexpr absl::Duration kExitTimeout = absl::Seconds(2);
constexpr absl::Duration kLingeringRetry = absl::Seconds(2);
constexpr absl::Duration kGroupTimeout = absl::Seconds(5);
constexpr absl::Duration kMaxNetworkRetry = absl::Minutes(5);

}  // namespace

// A pod being stopped or removed.
struct ManagerImpl::PodEnd {
  PodPtr pod;
  absl::Status network;  // an attachment that could not be undone keeps nothing else from ending
};

const ManagerImpl::EndOperation& ManagerImpl::EndPodSteps() {
  static const EndOperation steps("end pod", {{"kill its containers", &ManagerImpl::KillForEnd}});
  return steps;
}

const ManagerImpl::EndOperation& ManagerImpl::StopPodSteps() {
  static const EndOperation steps("stop pod",
                                  {{"take its network down", &ManagerImpl::DetachNetwork},
                                   {"write its record", &ManagerImpl::MarkStopped}});
  return steps;
}

const ManagerImpl::EndOperation& ManagerImpl::RemovePodSteps() {
  static const EndOperation steps("remove pod",
                                  {{"stop it", &ManagerImpl::StopForRemoval},
                                   {"remove its containers", &ManagerImpl::RemoveContainers},
                                   {"end its supervisor", &ManagerImpl::ShutSupervisorDown},
                                   {"remove its cgroup", &ManagerImpl::RemovePodGroup},
                                   {"remove its directory", &ManagerImpl::RemovePodFiles}});
  return steps;
}

void ManagerImpl::StopPod(const std::string& id, DoneCallback done) {
  EndPod(id, &ManagerImpl::StopPodLocked, std::move(done));
}

void ManagerImpl::RemovePod(const std::string& id, DoneCallback done) {
  EndPod(id, &ManagerImpl::RemovePodLocked, std::move(done));
}

void ManagerImpl::EndPod(const std::string& id, absl::Status (ManagerImpl::*steps)(const PodPtr&),
                         DoneCallback done) {
  const CallInProgress call(this);
  if (!call.status().ok()) return done(call.status());
  auto found = registry_.FindPod(id);
  if (!found.ok()) {
    return done(absl::IsNotFound(found.status()) ? absl::OkStatus() : found.status());
  }
  const PodPtr pod = *found;
  // At once, not when the gate opens: a creation that is under way ends when its container is
  // killed, and no new one begins.
  if (pod->phase() == PodPhase::kReady) {
    pod->Change(PodPhase::kStopping, [](PodView*) {}).IgnoreError();
  }
  KillContainers(pod);
  // While it waits for its turn, too: whoever is before it may wait for the supervisor.
  done = [watch = WatchStop(pod, options_.supervisor_patience),
          done = std::move(done)](absl::Status status) { done(std::move(status)); };
  pod->gate().Enter(OperationGate::Mode::kExclusive,
                    [this, pod, steps, done](std::shared_ptr<OperationGate::Pass> pass) {
                      PodEnd end{pod, absl::OkStatus()};
                      const absl::Status killed = EndPodSteps().Run(this, options_.faults, &end);
                      if (!killed.ok())
                        return done(sys::Annotate(killed, absl::StrCat("stop pod ", pod->id())));
                      AwaitExits(pod, [this, pod, steps, done, pass](absl::Status ended) {
                        workers_.Run([this, pod, steps, done, pass, ended] {
                          done(ended.ok() ? (this->*steps)(pod) : ended);
                        });
                      });
                    });
}

absl::Status ManagerImpl::StopPodLocked(const PodPtr& pod) {
  if (pod->phase() == PodPhase::kGone) return absl::OkStatus();
  PodEnd end{pod, absl::OkStatus()};
  DAVIT_RETURN_IF_ERROR(sys::Annotate(StopPodSteps().Run(this, options_.faults, &end),
                                      absl::StrCat("stop pod ", pod->id())));
  return sys::Annotate(end.network, absl::StrCat("stop pod ", pod->id()));
}

absl::Status ManagerImpl::KillForEnd(PodEnd* end) {
  KillContainers(end->pod);  // those whose creation ended well before the gate opened
  return absl::OkStatus();
}

absl::Status ManagerImpl::DetachNetwork(PodEnd* end) {
  // Tried again on every call: an attachment that an earlier call could not undo is still owed.
  end->network = TakeNetworkDown(end->pod);
  return absl::OkStatus();
}

absl::Status ManagerImpl::MarkStopped(PodEnd* end) {
  const PodPtr& pod = end->pod;
  const PodPhase phase = pod->phase();
  if (phase == PodPhase::kReady) {
    DAVIT_RETURN_IF_ERROR(pod->Change(PodPhase::kStopping, [](PodView*) {}));
  }
  if (phase == PodPhase::kReady || phase == PodPhase::kStopping) {
    DAVIT_RETURN_IF_ERROR(pod->Change(PodPhase::kNotReady, [](PodView*) {}));
  }
  // Also when it is marked already: the record that says so may be what failed the time before.
  const absl::Status written = UpdatePodRecord(pod);
  if (written.ok()) return written;
  const absl::Status marked = MarkPodStopped(pod->fixed().directory);
  // Nothing is left that a next start could take for a pod that runs.
  if (absl::IsNotFound(marked)) return absl::OkStatus();
  if (!marked.ok()) return written;
  Report(Severity::kWarning,
         absl::StrCat("pod ", pod->id(),
                      " is marked as stopped without its record: ", written.message()));
  return absl::OkStatus();
}

void ManagerImpl::KillContainers(const PodPtr& pod) {
  for (const ContainerPtr& container : pod->containers()) {
    const ContainerPhase phase = container->phase();
    if (phase == ContainerPhase::kExited || phase == ContainerPhase::kGone) continue;
    Signal(container, SIGKILL);
  }
}

void ManagerImpl::AwaitExits(const PodPtr& pod, DoneCallback done) {
  struct Wait {
    sys::Mutex mutex;
    std::set<std::string> running ABSL_GUARDED_BY(mutex);
    absl::Status failed ABSL_GUARDED_BY(mutex);
    DoneCallback done ABSL_GUARDED_BY(mutex);
    IoLoop::Handle timer = 0;
    // What to call now, if anything: the end comes once.
    DoneCallback TakeDone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
      return std::exchange(done, nullptr);
    }
  };
  const std::vector<ContainerPtr> containers = pod->containers();
  if (containers.empty()) return done(absl::OkStatus());
  auto wait = std::make_shared<Wait>();
  {
    sys::MutexLock lock(&wait->mutex);
    for (const ContainerPtr& container : containers) wait->running.insert(container->id());
    wait->done = std::move(done);
  }
  wait->timer =
      loop_->After(2 * options_.supervisor_patience + kKillTimeout, [this, wait, containers, pod] {
        DoneCallback late;
        std::set<std::string> running;
        {
          sys::MutexLock lock(&wait->mutex);
          late = wait->TakeDone();
          running = wait->running;
        }
        if (late == nullptr) return;
        for (const ContainerPtr& container : containers) {
          if (running.count(container->id()) > 0) Escalate(container);
        }
        late(absl::DeadlineExceededError(absl::StrCat("stop pod ", pod->id(), ": container ",
                                                      *running.begin(),
                                                      " was killed but has not ended")));
      });
  for (const ContainerPtr& container : containers) {
    container->WhenExited([this, wait, id = container->id()](absl::Status status) {
      DoneCallback all_done;
      {
        sys::MutexLock lock(&wait->mutex);
        wait->running.erase(id);
        wait->failed.Update(status);
        status = wait->failed;
        if (wait->running.empty()) all_done = wait->TakeDone();
      }
      if (all_done == nullptr) return;
      loop_->Cancel(wait->timer);
      all_done(status);
    });
  }
}

absl::Status ManagerImpl::TakeNetworkDown(const PodPtr& pod) {
  const Pod::View view = pod->view();
  if (view->spec.network != NamespaceMode::kPod) return absl::OkStatus();
  const cni::Request known = NetworkRequest(*view);
  const absl::Status deleted = network_->Del(pod->id(), absl::Now() + options_.cni_timeout, &known);
  if (!deleted.ok()) {
    ScheduleNetworkRetry(absl::Seconds(10));
    return sys::Annotate(deleted, absl::StrCat("detach pod ", pod->id(), " from the network"));
  }
  // Only now: plugins find their interfaces by the binding.
  DAVIT_RETURN_IF_ERROR(RemoveNetnsBinding(view->netns_path));
  if (!view->ips.empty()) pod->Edit([](PodView* edited) { edited->ips.clear(); });
  return absl::OkStatus();
}

absl::Status ManagerImpl::RemovePodLocked(const PodPtr& pod) {
  if (pod->phase() == PodPhase::kGone) return absl::OkStatus();
  PodEnd end{pod, absl::OkStatus()};
  DAVIT_RETURN_IF_ERROR(sys::Annotate(RemovePodSteps().Run(this, options_.faults, &end),
                                      absl::StrCat("remove pod ", pod->id())));
  DAVIT_RETURN_IF_ERROR(pod->Change(PodPhase::kGone, [](PodView*) {}));
  pod->ReleaseName();
  registry_.Remove(*pod);
  return absl::OkStatus();
}

absl::Status ManagerImpl::StopForRemoval(PodEnd* end) {
  const absl::Status stopped = StopPodLocked(end->pod);
  if (stopped.ok()) return absl::OkStatus();
  // An attachment is remembered apart from its pod and DELed in the background; what else failed
  // means that something still runs.
  if (end->pod->phase() != PodPhase::kNotReady) return stopped;
  Report(Severity::kWarning, std::string(stopped.message()));
  return absl::OkStatus();
}

absl::Status ManagerImpl::RemoveContainers(PodEnd* end) {
  for (const ContainerPtr& container : end->pod->containers()) {
    const OperationGate::Pass pass =
        container->gate().EnterBlocking(OperationGate::Mode::kExclusive);
    DAVIT_RETURN_IF_ERROR(RemoveContainerLocked(container));
  }
  return absl::OkStatus();
}

absl::Status ManagerImpl::ShutSupervisorDown(PodEnd* end) { return EndSupervisor(end->pod); }

absl::Status ManagerImpl::RemovePodGroup(PodEnd* end) {
  if (!end->pod->fixed().owns_cgroup) return absl::OkStatus();
  return groups_->Remove(end->pod->view()->cgroup_path, absl::Now() + kGroupTimeout);
}

absl::Status ManagerImpl::RemovePodFiles(PodEnd* end) { return RemovePodDirectory(end->pod); }

absl::Status ManagerImpl::EndSupervisor(const PodPtr& pod) {
  pod->ExpectEnd();
  Pod::Process process = pod->take_process();
  if (process.watch != 0) loop_->Unwatch(process.watch);
  const std::shared_ptr<SupervisorClient> client = pod->client();
  bool asked = false;
  if (client != nullptr && client->connected()) {
    supervisor::v1::ToSupervisor request;
    request.mutable_shutdown();
    asked = client->CallAndWait(std::move(request), {}, options_.supervisor_patience).ok();
  }
  if (process.pidfd.ok()) {
    // A supervisor that has answered is on its way out.
    if (!asked) sys::KillPidfd(process.pidfd.get(), SIGKILL).IgnoreError();
    const absl::StatusOr<int> status = sys::WaitPidfd(
        process.pidfd.get(), absl::Now() + (asked ? kExitTimeout : kShutdownTimeout));
    if (absl::IsDeadlineExceeded(status.status())) {
      sys::KillPidfd(process.pidfd.get(), SIGKILL).IgnoreError();
      sys::WaitPidfd(process.pidfd.get(), absl::Now() + kExitTimeout).IgnoreError();
    }
  }
  if (client != nullptr) client->Close();
  pod->set_client(nullptr);
  // What a supervisor that was killed has left behind.
  DAVIT_RETURN_IF_ERROR(RemoveNetnsBinding(pod->view()->netns_path));
  const absl::Status left = KillLeaf(pod->fixed().supervisor_leaf);
  if (left.ok()) return left;
  // All that it did is undone, and a disk that does not answer must not keep the pod.
  Report(
      Severity::kWarning,
      absl::StrCat("the supervisor of pod ", pod->id(),
                   " hangs in the kernel, most likely on the disk of its logs; the pod is removed "
                   "without it: ",
                   left.message()));
  auto lingering = std::make_shared<Lingering>();
  lingering->pidfd = std::move(process.pidfd);
  lingering->leaf = pod->fixed().supervisor_leaf;
  AwaitLingering(std::move(lingering));
  return absl::OkStatus();
}

void ManagerImpl::AwaitLingering(std::shared_ptr<Lingering> lingering) {
  loop_->After(kLingeringRetry, [this, lingering] {
    if (shutting_down_) return;
    workers_.Run([this, lingering] {
      // Reaped here if it is our child.
      if (lingering->pidfd.ok()) sys::WaitPidfd(lingering->pidfd.get(), absl::Now()).IgnoreError();
      if (!KillLeaf(lingering->leaf).ok()) AwaitLingering(lingering);
    });
  });
}

absl::Status ManagerImpl::UpdatePodRecord(const PodPtr& pod) {
  state::v1::PodRecord record;
  record.set_format_version(kRecordVersion);
  if (pod->fixed().newer_record) {
    // What a newer davitd has written there is kept for it.
    DAVIT_ASSIGN_OR_RETURN(record, ReadPodRecord(pod->fixed().directory, Newer::kTake));
  }
  record.set_boot_id(pod->fixed().boot_id);
  record.set_owns_cgroup(pod->fixed().owns_cgroup);
  record.set_supervisor_cgroup(pod->fixed().supervisor_leaf);
  ToRecord(*pod->view(), &record);
  return WritePodRecord(pod->fixed().directory, record);
}

absl::Status ManagerImpl::RemovePodDirectory(const PodPtr& pod) {
  // The record first: from then on a restart takes the rest for a leftover and clears it away.
  const std::string record = absl::StrCat(pod->fixed().directory, "/", kRecordFile);
  if (unlink(record.c_str()) != 0 && errno != ENOENT) {
    return sys::ErrnoStatus(errno, absl::StrCat("remove ", record));
  }
  return sys::RemoveTreeAt(AT_FDCWD, pod->fixed().directory);
}

void ManagerImpl::ScheduleNetworkRetry(absl::Duration delay) {
  {
    sys::MutexLock lock(&mutex_);
    if (network_retry_scheduled_ || shutting_down_) return;
    network_retry_scheduled_ = true;
  }
  loop_->After(delay, [this] {
    if (!shutting_down_) workers_.Run([this] { RetryNetwork(); });
  });
}

void ManagerImpl::RetryNetwork() {
  {
    sys::MutexLock lock(&mutex_);
    network_retry_scheduled_ = false;
  }
  bool failed = false;
  std::vector<std::string> broken;
  for (const cni::StoredAttachment& attachment : network_->List(&broken)) {
    if (shutting_down_) return;
    if (left_alone_.count(attachment.sandbox_id) != 0) continue;
    {
      sys::MutexLock lock(&mutex_);
      if (attaching_.count(attachment.sandbox_id) != 0) continue;
    }
    const auto pod = registry_.FindPod(attachment.sandbox_id);
    if (pod.ok() &&
        ((*pod)->phase() == PodPhase::kReady || (*pod)->phase() == PodPhase::kStopping)) {
      continue;
    }
    absl::Status status = network_->Del(attachment.sandbox_id, absl::Now() + options_.cni_timeout);
    if (status.ok()) status = RemoveNetnsBinding(attachment.netns_path);
    if (status.ok()) continue;
    failed = true;
    Report(Severity::kWarning,
           absl::StrCat("detaching pod ", attachment.sandbox_id, " from network ",
                        attachment.network, " failed and is tried again: ", status.message()));
  }
  for (const std::string& name : broken) {
    Report(Severity::kWarning, absl::StrCat("the record of a network attachment is unreadable: ",
                                            options_.root, "/cni/", name));
  }
  absl::Duration delay;
  {
    sys::MutexLock lock(&mutex_);
    network_retry_delay_ =
        failed ? std::min(network_retry_delay_ * 2, kMaxNetworkRetry) : absl::Seconds(10);
    delay = network_retry_delay_;
  }
  if (failed) ScheduleNetworkRetry(delay);
}

}  // namespace davit::sandbox
