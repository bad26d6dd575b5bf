#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"
#include "sandbox/manager_impl.h"
#include "sandbox/records.h"

namespace davit::sandbox {
namespace {

constexpr absl::Duration kSignalTimeout = absl::Seconds(10);
// For a SIGKILLed process to end, once its supervisor has had its time. What takes longer sits in
// the kernel, on a dead file server say.
constexpr absl::Duration kKillTimeout = absl::Seconds(10);
constexpr absl::Duration kRemoveTimeout = absl::Seconds(60);
constexpr absl::Duration kGroupTimeout = absl::Seconds(10);

}  // namespace

// A container being stopped.
struct ManagerImpl::ContainerStop {
  ContainerPtr container;
  absl::Duration timeout;
  DoneCallback done;
  bool told = false;  // its exit calls `done`, whatever happens
};

const ManagerImpl::StopOperation& ManagerImpl::StopContainerSteps() {
  static const StopOperation steps("stop container",
                                   {{"signal its processes", &ManagerImpl::BeginStop}});
  return steps;
}

void ManagerImpl::StopContainer(const std::string& id, absl::Duration timeout, DoneCallback done) {
  const CallInProgress call(this);
  if (!call.status().ok()) return done(call.status());
  auto found = registry_.FindContainer(id);
  if (!found.ok()) {
    return done(absl::IsNotFound(found.status()) ? absl::OkStatus() : found.status());
  }
  const ContainerPtr container = *found;
  done = [watch = WatchStop(container->fixed().pod,
                            std::max(timeout, absl::ZeroDuration()) + options_.supervisor_patience),
          done = std::move(done)](absl::Status status) { done(std::move(status)); };
  // Behind a start that is under way; the wait for the end needs no gate.
  container->gate().Enter(
      OperationGate::Mode::kExclusive,
      [this, container, timeout, done = std::move(done)](std::shared_ptr<OperationGate::Pass>) {
        ContainerStop stop{container, timeout, done};
        const absl::Status begun = StopContainerSteps().Run(this, options_.faults, &stop);
        if (begun.ok() || stop.told) return;
        done(sys::Annotate(begun, absl::StrCat("stop container ", container->id())));
      });
}

void ManagerImpl::AwaitExit(const ContainerPtr& container, absl::Duration limit,
                            const DoneCallback& done) {
  // The exit and the timer: whichever comes first takes the callback.
  auto once = std::make_shared<std::atomic<bool>>(false);
  const IoLoop::Handle timer = loop_->After(limit, [once, done, id = container->id()] {
    if (once->exchange(true)) return;
    done(absl::DeadlineExceededError(
        absl::StrCat("stop container ", id, ": it was killed but has not ended")));
  });
  container->WhenExited([this, once, done, timer](absl::Status status) {
    loop_->Cancel(timer);
    if (!once->exchange(true)) done(std::move(status));
  });
}

absl::Status ManagerImpl::BeginStop(ContainerStop* stop) {
  const ContainerPtr& container = stop->container;
  absl::Duration timeout = stop->timeout;
  stop->told = true;
  const ContainerPhase phase = container->phase();
  if (phase == ContainerPhase::kExited || phase == ContainerPhase::kGone) {
    stop->done(absl::OkStatus());
    return absl::OkStatus();
  }
  // What never ran has nothing to end in good order.
  if (phase == ContainerPhase::kCreated || timeout < absl::ZeroDuration()) {
    timeout = absl::ZeroDuration();
  }
  AwaitExit(container, timeout + 2 * options_.supervisor_patience + kKillTimeout, stop->done);
  const absl::Time kill_at = absl::Now() + timeout;
  bool send_signal = false;
  bool earlier = false;
  IoLoop::Handle old_timer = 0;
  container->WithStopPlan([&](Container::StopPlan* plan) {
    earlier = kill_at < plan->kill_at;
    if (!earlier) return;
    plan->kill_at = kill_at;
    old_timer = std::exchange(plan->timer, 0);
    send_signal = timeout > absl::ZeroDuration() && !plan->signalled;
    plan->signalled = true;
  });
  if (!earlier) return absl::OkStatus();
  if (old_timer != 0) loop_->Cancel(old_timer);
  // Weak: a timer must not keep what has been removed.
  const auto kill = [this, weak = std::weak_ptr<Container>(container)] {
    const ContainerPtr alive = weak.lock();
    if (alive == nullptr) return;
    Signal(alive, SIGKILL);
    loop_->After(options_.supervisor_patience, [this, weak] {
      if (const ContainerPtr late = weak.lock(); late != nullptr) Escalate(late);
    });
  };
  if (timeout == absl::ZeroDuration()) {
    kill();
    return absl::OkStatus();
  }
  if (send_signal) Signal(container, container->view()->stop_signal);
  const IoLoop::Handle timer = loop_->After(timeout, kill);
  container->WithStopPlan([timer](Container::StopPlan* plan) { plan->timer = timer; });
  container->WhenExited([this, timer](absl::Status) { loop_->Cancel(timer); });
  return absl::OkStatus();
}

void ManagerImpl::Signal(const ContainerPtr& container, int signal) {
  const auto client = container->fixed().pod->client();
  if (client != nullptr && client->connected()) {
    supervisor::v1::ToSupervisor request;
    request.mutable_kill_container()->set_container_id(container->id());
    request.mutable_kill_container()->set_signal(signal);
    request.mutable_kill_container()->set_all(signal == SIGKILL);
    client->Call(std::move(request), {}, kSignalTimeout,
                 [this, container, signal](absl::StatusOr<SupervisorClient::Answer> answer) {
                   // The supervisor went, or takes nothing: it will not do it.
                   if (absl::IsUnavailable(answer.status())) SignalDirectly(container, signal);
                 });
    return;
  }
  SignalDirectly(container, signal);
}

void ManagerImpl::SignalDirectly(const ContainerPtr& container, int signal) {
  if (const sys::UniqueFd pidfd = container->pidfd(); pidfd.ok()) {
    sys::KillPidfd(pidfd.get(), signal).IgnoreError();
  }
  if (signal != SIGKILL || shutting_down_) return;
  workers_.Run([this, group = container->view()->cgroup_path] {
    groups_->KillAll(group, absl::Now() + kGroupTimeout).IgnoreError();
  });
}

void ManagerImpl::Escalate(const ContainerPtr& container) {
  const ContainerPhase phase = container->phase();
  if (phase == ContainerPhase::kExited || phase == ContainerPhase::kGone) return;
  Report(Severity::kWarning,
         absl::StrCat("container ", container->id(), " has not ended since it was killed"));
  workers_.Run([this, group = container->view()->cgroup_path] {
    groups_->KillAll(group, absl::Now() + kGroupTimeout).IgnoreError();
  });
  // A process that sits in the kernel is nobody's fault here; a supervisor that does not answer is.
  ProbeSupervisor(container->fixed().pod);
}

void ManagerImpl::RemoveContainer(const std::string& id, DoneCallback done) {
  const CallInProgress call(this);
  if (!call.status().ok()) return done(call.status());
  auto found = registry_.FindContainer(id);
  if (!found.ok()) {
    return done(absl::IsNotFound(found.status()) ? absl::OkStatus() : found.status());
  }
  const ContainerPtr container = *found;
  done = [watch = WatchStop(container->fixed().pod, options_.supervisor_patience),
          done = std::move(done)](absl::Status status) { done(std::move(status)); };
  // The worker waits at the gate, and not the work behind it for a worker: removals of pods, which
  // wait for this gate in workers, could otherwise have taken all of them.
  workers_.Run([this, container, done = std::move(done)] {
    absl::Status status;
    {
      const OperationGate::Pass pass =
          container->gate().EnterBlocking(OperationGate::Mode::kExclusive);
      status = RemoveContainerLocked(container);
    }
    done(std::move(status));
  });
}

const ManagerImpl::ContainerEndOperation& ManagerImpl::RemoveContainerSteps() {
  static const ContainerEndOperation steps(
      "remove container", {{"end its processes", &ManagerImpl::EndContainer},
                           {"remove its writable layer", &ManagerImpl::RemoveWritableLayer},
                           {"remove its directory", &ManagerImpl::RemoveContainerDirectory}});
  return steps;
}

absl::Status ManagerImpl::RemoveContainerLocked(const ContainerPtr& container) {
  if (container->phase() == ContainerPhase::kGone) return absl::OkStatus();
  const absl::Status status = RemoveContainerSteps().Run(this, options_.faults, container);
  if (!status.ok()) {
    return sys::Annotate(status, absl::StrCat("remove container ", container->id()));
  }
  DAVIT_RETURN_IF_ERROR(container->Change(ContainerPhase::kGone, [](ContainerView*) {}));
  container->ReleaseHolds();
  registry_.Remove(*container);
  container->fixed().pod->RemoveContainer(container->id());
  return absl::OkStatus();
}

absl::Status ManagerImpl::EndContainer(const ContainerPtr& container) {
  const std::string group = container->view()->cgroup_path;
  const auto client = container->fixed().pod->client();
  bool removed = false;
  if (client != nullptr && client->connected()) {
    supervisor::v1::ToSupervisor request;
    request.mutable_remove_container()->set_container_id(container->id());
    const absl::Status answer =
        client->CallAndWait(std::move(request), {}, kRemoveTimeout).status();
    removed = answer.ok();
    // One that died over it has left the rest to do here.
    if (!removed && client->connected()) return answer;
  }
  if (!removed) {
    DAVIT_RETURN_IF_ERROR(groups_->KillAll(group, absl::Now() + kGroupTimeout));
    DAVIT_RETURN_IF_ERROR(groups_->Remove(group, absl::Now() + kGroupTimeout));
  }
  // The supervisor has told of the exit before it answered; one that is lost has not.
  if (container->phase() != ContainerPhase::kExited) SettleLostContainer(container);
  return absl::OkStatus();
}

absl::Status ManagerImpl::RemoveWritableLayer(const ContainerPtr& container) {
  return layers_->Remove(container->id());
}

absl::Status ManagerImpl::RemoveContainerDirectory(const ContainerPtr& container) {
  return sys::RemoveTreeAt(AT_FDCWD, container->fixed().directory);
}

}  // namespace davit::sandbox
