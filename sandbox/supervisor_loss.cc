#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/spawn.h"
#include "sandbox/container_outcome.h"
#include "sandbox/hello.h"
#include "sandbox/manager_impl.h"
#include "sandbox/pidfd_exit.h"
#include "sandbox/records.h"
#include "sandbox/status_record.h"

// What davitd hears of its supervisors, and what it does when one is heard of no more.
namespace davit::sandbox {
namespace {

using supervisor::v1::FromSupervisor;

constexpr absl::Duration kGroupTimeout = absl::Seconds(5);
constexpr absl::Duration kReachTimeout = absl::Seconds(10);
constexpr absl::Duration kMaxReconnectDelay = absl::Seconds(30);
// The kernel tells a pidfd's exit status after the reap, which init does at once.
constexpr absl::Duration kReapTimeout = absl::Milliseconds(500);

bool HasEnded(int pidfd) {
  pollfd poll_fd{pidfd, POLLIN, 0};
  return poll(&poll_fd, 1, 0) == 1;
}

std::optional<int> AwaitExitStatus(int pidfd) {
  if (pidfd < 0) return std::nullopt;
  const absl::Time deadline = absl::Now() + kReapTimeout;
  for (;;) {
    if (const auto status = ExitStatusOf(pidfd); status.has_value()) return status;
    if (absl::Now() >= deadline) return std::nullopt;
    absl::SleepFor(absl::Milliseconds(2));
  }
}

}  // namespace

void ManagerImpl::OnEvent(const PodPtr& pod, const FromSupervisor& event) {
  if (event.message_case() == FromSupervisor::kLogChanged) {
    const supervisor::v1::LogChanged& changed = event.log_changed();
    const ContainerPtr container = pod->FindContainer(changed.container_id());
    if (container != nullptr) AdoptLog(container, changed.health());
    return;
  }
  // OutOfMemory needs nothing here: the exit that follows from it says so itself.
  if (event.message_case() != FromSupervisor::kContainerExited) return;
  const supervisor::v1::ContainerState& state = event.container_exited().state();
  const ContainerPtr container = pod->FindContainer(state.container_id());
  if (container != nullptr) Adopt(container, state);
}

void ManagerImpl::AdoptLog(const ContainerPtr& container, const supervisor::v1::LogHealth& health) {
  const std::string error = health.error_number() == 0           ? ""
                            : health.error_number() == ETIMEDOUT ? "the disk does not answer"
                                                                 : strerror(health.error_number());
  const Container::View before = container->view();
  container->Edit([&](ContainerView* view) {
    view->log_error = error;
    view->log_dropped_lines = health.dropped_lines();
    view->log_dropped_bytes = health.dropped_bytes();
  });
  if (before->log_error == error) return;
  std::string said =
      absl::StrCat("container ", container->id(), ": its log ", before->log_path,
                   error.empty() ? " is written again" : " cannot be written: ", error);
  if (health.dropped_bytes() != 0) {
    absl::StrAppend(&said, "; ", health.dropped_lines(), " lines (", health.dropped_bytes(),
                    " bytes) of its output were dropped so far");
  }
  Report(Severity::kWarning, said);
}

void ManagerImpl::Adopt(const ContainerPtr& container, const supervisor::v1::ContainerState& state,
                        sys::UniqueFd pidfd) {
  using supervisor::v1::ContainerState;
  if (state.has_log()) AdoptLog(container, state.log());
  const auto set_running = [&state](ContainerView* view) {
    view->pid = state.pid();
    if (state.created_at() != 0 && view->created_at == 0) view->created_at = state.created_at();
    if (state.started_at() != 0) view->started_at = state.started_at();
  };
  switch (state.phase()) {
    case ContainerState::CREATED:
      container->Change(ContainerPhase::kCreated, set_running).IgnoreError();
      break;
    case ContainerState::RUNNING:
      container->Change(ContainerPhase::kRunning, set_running).IgnoreError();
      break;
    case ContainerState::EXITED: {
      const Outcome outcome = OutcomeOf(state);
      // A refused change is one that was told twice, or of a creation that failed.
      container
          ->Change(ContainerPhase::kExited,
                   [&](ContainerView* view) {
                     if (state.started_at() != 0) view->started_at = state.started_at();
                     view->finished_at = state.finished_at();
                     view->pid = 0;
                     view->exit_code = outcome.exit_code;
                     view->reason = outcome.reason;
                     view->message = outcome.message;
                   })
          .IgnoreError();
      container->set_pidfd(sys::UniqueFd());
      return;
    }
    default:
      return;
  }
  if (container->pidfd().ok()) return;
  if (!pidfd.ok() && state.pid() > 0) {
    pidfd = OpenMember(state.pid(), container->view()->cgroup_path);
  }
  if (pidfd.ok()) container->set_pidfd(std::move(pidfd));
}

void ManagerImpl::OnConnectionClosed(const PodPtr& pod) {
  if (shutting_down_) return;
  // Its death is noticed by its pidfd, which may come a moment later; if it lives, it is reached
  // again by its socket.
  ScheduleReconnect(pod, absl::Milliseconds(100));
}

void ManagerImpl::ScheduleReconnect(const PodPtr& pod, absl::Duration delay) {
  loop_->After(delay, [this, weak = std::weak_ptr<Pod>(pod), delay] {
    const PodPtr alive = weak.lock();
    if (alive == nullptr || shutting_down_ || alive->phase() == PodPhase::kGone) return;
    const sys::UniqueFd pidfd = alive->pidfd();
    // No pidfd: it has been lost, or is being ended on purpose.
    if (!pidfd.ok() || HasEnded(pidfd.get())) return;
    if (const auto client = alive->client(); client != nullptr && client->connected()) return;
    Reach(alive, kReachTimeout, [this, alive, delay](const absl::Status& status) {
      if (!status.ok()) {
        return ScheduleReconnect(alive, std::min(delay * 2, kMaxReconnectDelay));
      }
      // On a worker: it waits for the supervisor.
      workers_.Run([this, alive] { DiscardUnfinished(alive); });
    });
  });
}

void ManagerImpl::Reach(const PodPtr& pod, absl::Duration timeout,
                        std::function<void(absl::Status)> done) {
  auto socket = sys::SeqpacketConnect(absl::StrCat(pod->fixed().directory, "/supervisor.sock"));
  if (!socket.ok()) return done(socket.status());
  // The peer is who listens: the supervisor, whatever its record says.
  auto peer = sys::PeerOf(socket->get());
  if (!peer.ok()) return done(peer.status());
  if (!options_.trust_any_supervisor && !IsSupervisor(peer->pid)) {
    return done(absl::FailedPreconditionError(
        absl::StrCat("process ", peer->pid, ", which is no davit-pod, serves ",
                     pod->fixed().directory, "/supervisor.sock")));
  }
  if (!pod->pidfd().ok()) {
    Pod::Process process;
    process.pidfd = std::move(peer->pidfd);
    pod->set_process(std::move(process));
    if (const absl::Status watched = WatchSupervisor(pod); !watched.ok()) return done(watched);
  }
  absl::Status status;
  const auto client = ConnectClient(pod, *std::move(socket), &status);
  if (!status.ok()) return done(status);
  pod->Edit([&](PodView* view) { view->pid = peer->pid; });
  SayHello(pod, client, "", timeout, std::move(done));
}

void ManagerImpl::SayHello(const PodPtr& pod, const std::shared_ptr<SupervisorClient>& client,
                           const std::string& after, absl::Duration timeout,
                           std::function<void(absl::Status)> done) {
  client->Call(
      HelloRequest(after), {}, timeout,
      [=, this, done = std::move(done)](absl::StatusOr<SupervisorClient::Answer> answer) {
        absl::Status result = answer.status();
        if (result.ok()) {
          const supervisor::v1::HelloReply& hello = answer->reply.hello();
          if (const absl::Status noted = after.empty() ? NoteBuild(pod, hello) : absl::OkStatus();
              !noted.ok()) {
            return UpgradeForeign(pod, client, noted, timeout, done);
          }
          auto pidfds = PidfdsOf(hello, after, std::move(answer->fds));
          result = pidfds.ok() ? Resync(pod, hello, *std::move(pidfds)) : pidfds.status();
          if (result.ok() && hello.more()) {
            const std::string& last = hello.containers().rbegin()->container_id();
            return SayHello(pod, client, last, timeout, done);
          }
        }
        if (!result.ok()) client->Close();
        done(result);
      });
}

absl::Status ManagerImpl::Resync(const PodPtr& pod, const supervisor::v1::HelloReply& hello,
                                 std::map<std::string, sys::UniqueFd> pidfds) {
  if (hello.sandbox_id() != pod->id()) {
    return absl::FailedPreconditionError(absl::StrCat("the supervisor of pod ", pod->id(),
                                                      " says that it serves ", hello.sandbox_id()));
  }
  pod->set_init_pid(hello.init_pid());
  for (const supervisor::v1::ContainerState& state : hello.containers()) {
    if (const ContainerPtr container = pod->FindContainer(state.container_id());
        container != nullptr) {
      Adopt(container, state, std::move(pidfds[state.container_id()]));
      continue;
    }
    // Its creation was cut short together with the daemon that asked for it.
    supervisor::v1::ToSupervisor remove;
    remove.mutable_remove_container()->set_container_id(state.container_id());
    pod->client()->Call(std::move(remove), {}, absl::Minutes(1),
                        [](const absl::StatusOr<SupervisorClient::Answer>&) {});
  }
  return absl::OkStatus();
}

void ManagerImpl::OnSupervisorGone(const PodPtr& pod) {
  const bool mine = pod->ClaimLoss();
  Pod::Process process = pod->take_process();
  if (process.watch != 0) loop_->Unwatch(process.watch);
  // Reaped here if it is our child: a zombie would stay for as long as the daemon lives.
  if (process.pidfd.ok()) sys::WaitPidfd(process.pidfd.get(), absl::Now()).IgnoreError();
  if (!mine || shutting_down_) return;
  // At once: whoever has the gate may be waiting for the containers' end.
  workers_.Run([this, pod] { SettleLostContainers(pod); });
  pod->gate().Enter(OperationGate::Mode::kExclusive,
                    [this, pod](std::shared_ptr<OperationGate::Pass> pass) {
                      workers_.Run([this, pod, pass = std::move(pass)] { HandleLoss(pod); });
                    });
}

void ManagerImpl::HandleLoss(const PodPtr& pod) {
  if (pod->phase() == PodPhase::kGone || pod->phase() == PodPhase::kCreating) return;
  SettleLostPod(pod, "its supervisor ended unexpectedly");
  const absl::Status down = TakeNetworkDown(pod);
  if (!down.ok()) Report(Severity::kWarning, std::string(down.message()));
}

void ManagerImpl::SettleLostPod(const PodPtr& pod, const std::string& why) {
  if (!why.empty()) {
    Report(Severity::kError,
           absl::StrCat("pod ", pod->id(), " (", pod->view()->spec.name_key, ") is lost: ", why));
  }
  if (const auto client = pod->client(); client != nullptr) client->Close();
  pod->set_client(nullptr);
  SettleLostContainers(pod);
  if (pod->phase() == PodPhase::kNotReady) {
    pod->Edit([](PodView* view) { view->pid = 0; });
  } else {
    pod->Change(PodPhase::kNotReady,
                [](PodView* view) {
                  view->pid = 0;
                  view->ips.clear();
                  view->reason = kReasonSupervisorLost;
                })
        .IgnoreError();
  }
  const absl::Status written = UpdatePodRecord(pod);
  if (!written.ok()) Report(Severity::kError, std::string(written.message()));
}

void ManagerImpl::SettleLostContainers(const PodPtr& pod) {
  // davit-init, and whatever else it had started.
  const absl::Status killed = KillLeaf(pod->fixed().supervisor_leaf);
  if (!killed.ok()) Report(Severity::kError, std::string(killed.message()));
  const absl::Time deadline = absl::Now() + kGroupTimeout;
  for (const ContainerPtr& container : pod->containers()) {
    const std::string group = container->view()->cgroup_path;
    absl::Status status = groups_->KillAll(group, deadline);
    const OperationGate::Pass pass =
        container->gate().EnterBlocking(OperationGate::Mode::kExclusive);
    SettleLostContainer(container);
    if (status.ok()) status = groups_->Remove(group, absl::Now() + kGroupTimeout);
    if (!status.ok()) Report(Severity::kError, std::string(status.message()));
  }
}

void ManagerImpl::SettleLostContainer(const ContainerPtr& container) {
  const ContainerPhase phase = container->phase();
  if (phase == ContainerPhase::kExited || phase == ContainerPhase::kGone) return;
  // In the order of trust: what the supervisor wrote down before it ended; what the kernel still
  // knows; nothing.
  const std::string directory = container->fixed().directory;
  const auto status = ReadStatus(absl::StrCat(directory, "/status"));
  if (status.ok() && status->phase() == supervisor::v1::ContainerState::EXITED) {
    return Adopt(container, *status);
  }
  Outcome outcome = SupervisorLostOutcome();
  const std::optional<int> exit_status = AwaitExitStatus(container->pidfd().get());
  if (exit_status.has_value()) {
    outcome.exit_code = OutcomeOf(*exit_status, false, "").exit_code;
  }
  const int64_t started_at = status.ok() ? status->started_at() : 0;
  const absl::Status changed = container->Change(ContainerPhase::kExited, [&](ContainerView* view) {
    if (view->started_at == 0) view->started_at = started_at;
    view->finished_at = NowNanos();
    view->pid = 0;
    view->exit_code = outcome.exit_code;
    view->reason = outcome.reason;
    view->message = outcome.message;
  });
  container->set_pidfd(sys::UniqueFd());
  if (!changed.ok()) return;
  // Said once, and the same after every restart.
  auto record = ReadContainerRecord(directory, Newer::kTake);
  if (!record.ok()) return;
  const Container::View view = container->view();
  record->set_ended(true);
  record->set_exit_code(view->exit_code);
  record->set_started_at(view->started_at);
  record->set_finished_at(view->finished_at);
  record->set_reason(view->reason);
  record->set_message(view->message);
  const absl::Status written = WriteContainerRecord(directory, *record);
  if (!written.ok()) Report(Severity::kError, std::string(written.message()));
}

}  // namespace davit::sandbox
