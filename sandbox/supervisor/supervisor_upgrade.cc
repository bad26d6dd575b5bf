#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/version.h"
#include "sandbox/supervisor/reexec.h"
#include "sandbox/supervisor/state_format.h"
#include "sandbox/supervisor/supervisor.h"

// How a supervisor's program is replaced in place: the old one's side, up to execve, and the new
// one's from there on.
namespace davit::sandbox {
namespace {

using upgrade::v1::SupervisorState;

constexpr absl::Duration kDefaultPatience = absl::Seconds(2);
constexpr absl::Duration kLongestPatience = absl::Minutes(1);
// For the new program to look at the state. The pod's logs rest meanwhile.
constexpr absl::Duration kCheckPatience = absl::Seconds(5);

}  // namespace

void Supervisor::Upgrade(Origin origin, const supervisor::v1::Upgrade& request, Fds fds) {
  if (upgrade_ != nullptr) {
    return AnswerError(origin, absl::AlreadyExistsError("upgrade: one is under way"));
  }
  if (!shutdown_.empty()) {
    return AnswerError(origin, absl::FailedPreconditionError("upgrade: the pod is shutting down"));
  }
  if (fds.size() != 1) {
    return AnswerError(origin, absl::InvalidArgumentError(absl::StrCat(
                                   "upgrade: ", fds.size(), " descriptors came with it, not 1")));
  }
  if (const absl::Status sound = CheckProgram(fds[0].get()); !sound.ok()) {
    return AnswerError(origin, sys::Annotate(sound, "upgrade"));
  }
  upgrade_ = std::make_unique<PendingUpgrade>();
  upgrade_->origin = origin;
  upgrade_->program = std::move(fds[0]);
  upgrade_->program_id = request.program_id();
  const absl::Duration patience =
      request.patience_ms() > 0 ? absl::Milliseconds(request.patience_ms()) : kDefaultPatience;
  upgrade_->timer = loop_->After(std::min(patience, kLongestPatience), [this] {
    upgrade_->timer = 0;
    const std::string busy = WhyBusy();
    GiveUpUpgrade(absl::UnavailableError(
        absl::StrCat("upgrade: ", busy.empty() ? "a log is being written" : busy)));
  });
}

void Supervisor::GiveUpUpgrade(const absl::Status& why) {
  const std::unique_ptr<PendingUpgrade> upgrade = std::move(upgrade_);
  if (upgrade->timer != 0) loop_->Cancel(upgrade->timer);
  if (upgrade->log_asked) log_writer_->Resume();
  AnswerError(upgrade->origin, why);
}

void Supervisor::ContinueUpgrade() {
  if (upgrade_ == nullptr || (upgrade_->log_asked && !upgrade_->log_resting)) return;
  if (!WhyBusy().empty() || (upgrade_->log_resting && !log_writer_->AtRest())) {
    // Later. The turn in which it ends comes by an event.
    if (std::exchange(upgrade_->log_asked, false)) log_writer_->Resume();
    upgrade_->log_resting = false;
    return;
  }
  if (upgrade_->log_resting) return ReplaceSelf();
  upgrade_->log_asked = true;
  log_writer_->Suspend([this, upgrade = upgrade_.get()](int) {
    if (upgrade_.get() == upgrade) upgrade_->log_resting = true;
  });
}

std::string Supervisor::WhyBusy() const {
  if (!shutdown_.empty()) return "the pod is shutting down";
  for (const auto& [id, container] : containers_) {
    if (std::string why = container->WhyBusy(); !why.empty()) return why;
  }
  for (const auto& [id, running] : execs_) {
    if (!running.exec->Steady()) return absl::StrCat("exec ", id, " begins or ends");
  }
  if (open_requests_ > 1) return "another request is being carried out";
  if (!server_->everything_sent()) return "davitd does not take its messages";
  return "";
}

// At the end of a turn: nothing is half done, and what has not been read of events, requests and
// output is still in its descriptor for whoever comes.
void Supervisor::ReplaceSelf() {
  SupervisorState state;
  SavedDescriptors descriptors(&state);
  absl::Status status = Save(&state, &descriptors);
  if (status.ok()) {
    auto memfd = sys::SealedMemfd("davit-pod-state", state.SerializeAsString());
    status = memfd.status();
    if (memfd.ok()) {
      status = ReplaceProgram(upgrade_->program.get(), memfd->get(), descriptors,
                              config_.sandbox_id(), kCheckPatience);
    }
  }
  GiveUpUpgrade(sys::Annotate(status, "upgrade"));
}

absl::Status Supervisor::Save(SupervisorState* state, SavedDescriptors* descriptors) const {
  state->set_format_version(kStateFormat);
  state->set_oldest_reader(kOldestStateReader);
  state->set_writer(sys::Version());
  *state->mutable_config() = config_;
  state->mutable_config()->set_program_id(upgrade_->program_id);
  state->mutable_pod()->set_mount_namespace(descriptors->Add(pod_.mount_namespace));
  state->mutable_pod()->set_user_namespace(descriptors->Add(pod_.user_namespace));
  state->mutable_pod()->set_init_pid(pod_.init_pid);
  if (pod_.init_pid != 0) state->mutable_pod()->set_init_pidfd(descriptors->Add(pod_.init_pidfd));
  *state->mutable_server() = server_->Save(descriptors);
  state->mutable_upgrade()->set_connection(upgrade_->origin.connection);
  state->mutable_upgrade()->set_request_id(upgrade_->origin.request_id);
  for (const auto& [id, container] : containers_) {
    DAVIT_ASSIGN_OR_RETURN(*state->add_containers(), container->Save(descriptors));
  }
  for (const auto& [id, running] : execs_) {
    upgrade::v1::ExecState* exec = state->add_execs();
    DAVIT_ASSIGN_OR_RETURN(*exec, running.exec->Save(descriptors));
    exec->set_exec_id(id);
    exec->set_container_id(running.container_id);
    exec->set_connection(running.connection);
  }
  return absl::OkStatus();
}

// ---- the new program

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Restore(const SupervisorState& state,
                                                                InheritedDescriptors* descriptors,
                                                                bool only_check) {
  std::unique_ptr<Supervisor> supervisor(new Supervisor(state.config()));
  DAVIT_RETURN_IF_ERROR(supervisor->RestoreParts(state, descriptors));
  if (!only_check) DAVIT_RETURN_IF_ERROR(supervisor->log_writer_->StartThread());
  return supervisor;
}

absl::Status Supervisor::RestoreParts(const SupervisorState& state,
                                      InheritedDescriptors* descriptors) {
  DAVIT_RETURN_IF_ERROR(MakeLoop());
  const upgrade::v1::PodState& pod = state.pod();
  DAVIT_ASSIGN_OR_RETURN(pod_.mount_namespace, descriptors->Take(pod.mount_namespace()));
  DAVIT_ASSIGN_OR_RETURN(pod_.user_namespace, descriptors->Take(pod.user_namespace()));
  pod_.init_pid = pod.init_pid();
  if (pod_.init_pid != 0) {
    DAVIT_ASSIGN_OR_RETURN(pod_.init_pidfd,
                           descriptors->TakeNeeded(pod.init_pidfd(), "the pod's init"));
  }
  DAVIT_RETURN_IF_ERROR(AwaitInit());
  DAVIT_RETURN_IF_ERROR(MakeLogWriter());
  for (const upgrade::v1::ContainerState& saved : state.containers()) {
    const std::string& id = saved.state().container_id();
    if (Find(id) != nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("container \"", id, "\" comes twice"));
    }
    containers_[id] = std::make_unique<Container>(tools_, id, ContainerObserver());
    const absl::Status restored = containers_[id]->Restore(saved, descriptors);
    if (!restored.ok()) return sys::Annotate(restored, absl::StrCat("container ", id));
  }
  for (const upgrade::v1::ExecState& saved : state.execs()) {
    RunningExec& running = execs_[saved.exec_id()];
    running.container_id = saved.container_id();
    running.connection = saved.connection();
    running.exec = std::make_unique<Exec>(tools_, ExecObserver(saved.exec_id()));
    const absl::Status restored = running.exec->Restore(saved, descriptors);
    if (!restored.ok()) return sys::Annotate(restored, absl::StrCat("exec ", saved.exec_id()));
  }
  DAVIT_ASSIGN_OR_RETURN(
      server_, ProtocolServer::Restore(loop_.get(), this, config_.pod_dir() + "/supervisor.sock",
                                       state.server(), descriptors));
  upgraded_ = {state.upgrade().connection(), state.upgrade().request_id()};
  return absl::OkStatus();
}

void Supervisor::Continue() {
  reaper_->ReapOrphans();
  for (const auto& [id, container] : containers_) container->Continue();
  ++open_requests_;  // that one
  supervisor::v1::Reply reply;
  FillHello(reply.mutable_upgrade()->mutable_hello());
  Answer(upgraded_, std::move(reply));
  TrimSoon();
}

}  // namespace davit::sandbox
