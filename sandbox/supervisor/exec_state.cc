#include "runtime/sys/errno.h"
#include "sandbox/supervisor/exec.h"

// An exec session's part of what a supervisor hands to the program that takes its place.
namespace davit::sandbox {

bool Exec::Steady() const {
  return session_ != nullptr && session_->Steady() && session_->pid() != 0;
}

absl::StatusOr<upgrade::v1::ExecState> Exec::Save(SavedDescriptors* descriptors) const {
  upgrade::v1::ExecState state;
  DAVIT_ASSIGN_OR_RETURN(*state.mutable_session(), session_->Save(descriptors));
  state.set_deadline(timer_ != 0 ? deadline_ : 0);
  state.set_timed_out(timed_out_);
  state.set_killed(killed_);
  return state;
}

absl::Status Exec::Restore(const upgrade::v1::ExecState& state, InheritedDescriptors* descriptors) {
  timed_out_ = state.timed_out();
  killed_ = state.killed();
  DAVIT_RETURN_IF_ERROR(session_->Restore(state.session(), descriptors));
  deadline_ = state.deadline();
  if (deadline_ != 0) ArmTimer();
  return absl::OkStatus();
}

}  // namespace davit::sandbox
