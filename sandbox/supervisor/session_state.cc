#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "sandbox/supervisor/session.h"

// A session's part of what a supervisor hands to the program that takes its place.
namespace davit::sandbox {
namespace {

using upgrade::v1::SessionState;

void SaveLaunch(const runtime::stage::LaunchState& launch, upgrade::v1::LaunchState* state,
                SavedDescriptors* descriptors) {
  for (const auto& group : launch.groups) {
    auto* saved = state->add_groups();
    saved->set_directory(group.directory);
    saved->set_made(group.made);
  }
  for (const auto& step : launch.steps) {
    auto* saved = state->add_steps();
    saved->set_number(step.number);
    saved->set_operation(step.operation);
    saved->set_object(step.object);
  }
  state->set_shared_layout(launch.shared_layout);
  state->set_report(descriptors->Add(launch.report));
  state->set_shared(descriptors->Add(launch.shared));
  state->set_rootfs_clone(descriptors->Add(launch.rootfs_clone));
  state->set_cgroup(descriptors->Add(launch.cgroup));
}

absl::StatusOr<std::unique_ptr<runtime::stage::Launch>> RestoreLaunch(
    const upgrade::v1::LaunchState& state, InheritedDescriptors* descriptors) {
  runtime::stage::LaunchState launch;
  for (const auto& group : state.groups())
    launch.groups.push_back({group.directory(), group.made()});
  for (const auto& step : state.steps()) {
    launch.steps.push_back({step.number(), step.operation(), step.object()});
  }
  launch.shared_layout = state.shared_layout();
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd report, descriptors->Take(state.report()));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd shared, descriptors->Take(state.shared()));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd rootfs_clone, descriptors->Take(state.rootfs_clone()));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd cgroup, descriptors->Take(state.cgroup()));
  launch.report = report.release();
  launch.shared = shared.release();
  launch.rootfs_clone = rootfs_clone.release();
  launch.cgroup = cgroup.release();
  return runtime::stage::Launch::Restore(std::move(launch));
}

}  // namespace

bool Session::Steady() const {
  const bool phase = phase_ == Phase::kCreated || phase_ == Phase::kRunning ||
                     (phase_ == Phase::kEnded && pid_ == 0);
  return phase && helper_ == 0 && timer_ == 0 && undo_timer_ == 0 && undo_done_ == nullptr;
}

absl::StatusOr<SessionState> Session::Save(SavedDescriptors* descriptors) const {
  SessionState state;
  switch (phase_) {
    case Phase::kCreated:
      state.set_phase(SessionState::CREATED);
      break;
    case Phase::kRunning:
      state.set_phase(SessionState::RUNNING);
      break;
    case Phase::kEnded:
      state.set_phase(SessionState::ENDED);
      break;
    default:
      return absl::FailedPreconditionError("a process is being made or given up");
  }
  state.set_pid(pid_);
  // Of a process that has been reaped nothing can be learned any more.
  if (pid_ != 0) state.set_pidfd(descriptors->Add(pidfd_));
  for (const std::string& cgroup : facts_.cgroups) state.add_cgroups(cgroup);
  state.set_new_pid_namespace(facts_.new_pid_namespace);
  state.set_terminal(facts_.terminal);
  if (launch_ == nullptr) return state;
  DAVIT_ASSIGN_OR_RETURN(const auto launch, launch_->Save());
  SaveLaunch(launch, state.mutable_launch(), descriptors);
  return state;
}

absl::Status Session::Restore(const SessionState& state, InheritedDescriptors* descriptors) {
  for (const std::string& cgroup : state.cgroups()) facts_.cgroups.push_back(cgroup);
  facts_.new_pid_namespace = state.new_pid_namespace();
  facts_.terminal = state.terminal();
  if (state.has_launch()) {
    DAVIT_ASSIGN_OR_RETURN(launch_, RestoreLaunch(state.launch(), descriptors));
  }
  if (state.phase() == SessionState::ENDED) {
    phase_ = Phase::kEnded;
    return absl::OkStatus();
  }
  if (state.phase() != SessionState::CREATED && state.phase() != SessionState::RUNNING) {
    return absl::InvalidArgumentError(
        absl::StrCat("a process in phase ", static_cast<int>(state.phase())));
  }
  DAVIT_ASSIGN_OR_RETURN(pidfd_, descriptors->TakeNeeded(state.pidfd(), "a process"));
  if (state.pid() <= 0 || PidOfPidfd(pidfd_.get()) != state.pid()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the descriptor of process ", state.pid(), " is of another one"));
  }
  const bool created = state.phase() == SessionState::CREATED;
  if (created && (launch_ == nullptr || launch_->report_fd() < 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("process ", state.pid(), " waits to be started, but cannot be told"));
  }
  phase_ = created ? Phase::kCreated : Phase::kRunning;
  pid_ = state.pid();
  DAVIT_RETURN_IF_ERROR(WatchProcess());
  return created ? WatchReport() : absl::OkStatus();
}

}  // namespace davit::sandbox
