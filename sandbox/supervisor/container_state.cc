#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "sandbox/supervisor/container.h"

// A container's part of what a supervisor hands to the program that takes its place.
namespace davit::sandbox {

std::string Container::WhyBusy() const {
  using supervisor::v1::ContainerState;
  const char* why = nullptr;
  if (state_.phase() == ContainerState::CREATING || create_done_ != nullptr) {
    why = "created";
  } else if (start_done_ != nullptr) {
    why = "started";
  } else if (!removers_.empty() || releasing_) {
    why = "removed";
  } else if (!session_.Steady()) {
    why = "ended";
  }
  for (const auto& leftover : leftovers_) {
    if (!leftover->Steady()) why = "swept";
  }
  return why == nullptr ? "" : absl::StrCat("container ", id(), " is being ", why);
}

absl::StatusOr<upgrade::v1::ContainerState> Container::Save(SavedDescriptors* descriptors) const {
  upgrade::v1::ContainerState state;
  *state.mutable_state() = state_;
  state.set_record(descriptors->Add(record_.fd()));
  DAVIT_ASSIGN_OR_RETURN(*state.mutable_session(), session_.Save(descriptors));
  *state.mutable_cgroup() = cgroup_.Save(descriptors);
  if (log_ != nullptr) *state.mutable_log() = tools_.log_writer->Save(*log_, descriptors);
  state.set_log_path(log_path_);
  state.set_stdin(descriptors->Add(stdin_));
  state.set_console(descriptors->Add(console_));
  state.set_ended(ended_);
  state.set_exit_told(exit_told_);
  for (const auto& leftover : leftovers_) {
    DAVIT_ASSIGN_OR_RETURN(*state.add_leftovers(), leftover->Save(descriptors));
  }
  return state;
}

absl::Status Container::Restore(const upgrade::v1::ContainerState& state,
                                InheritedDescriptors* descriptors) {
  state_ = state.state();
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd record,
                         descriptors->TakeNeeded(state.record(), "a status record"));
  DAVIT_ASSIGN_OR_RETURN(record_, StatusWriter::Adopt(std::move(record)));
  process_created_ = true;
  log_open_ = true;
  ended_ = state.ended();
  exit_told_ = state.exit_told();
  DAVIT_RETURN_IF_ERROR(session_.Restore(state.session(), descriptors));
  DAVIT_RETURN_IF_ERROR(cgroup_.Restore(state.cgroup(), descriptors, [this] { OnOutOfMemory(); }));
  if (state.has_log()) {
    DAVIT_ASSIGN_OR_RETURN(
        log_, tools_.log_writer->Restore(state.log(), descriptors, LogHealthCallback()));
  }
  log_path_ = state.log_path();
  DAVIT_ASSIGN_OR_RETURN(stdin_, descriptors->Take(state.stdin()));
  DAVIT_ASSIGN_OR_RETURN(console_, descriptors->Take(state.console()));
  for (const auto& leftover : state.leftovers()) {
    // As that of an exec which has finished, it tells nobody anything any more.
    auto session = std::make_unique<Session>(tools_.loop, tools_.reaper, nullptr);
    DAVIT_RETURN_IF_ERROR(session->Restore(leftover, descriptors));
    leftovers_.push_back(std::move(session));
  }
  return absl::OkStatus();
}

void Container::Continue() {
  if (ended_ && !exit_told_) AwaitLog();
}

}  // namespace davit::sandbox
