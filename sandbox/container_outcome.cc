#include "sandbox/container_outcome.h"

#include <sys/wait.h>

#include "absl/strings/str_cat.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/utf8.h"

namespace davit::sandbox {

Outcome OutcomeOf(int wait_status, bool oom_killed, absl::string_view message) {
  Outcome outcome;
  outcome.message = sys::ValidUtf8(message);
  outcome.exit_code =
      WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
  if (oom_killed && outcome.exit_code == kKilledExitCode) {
    outcome.reason = kReasonOomKilled;
  } else {
    outcome.reason = outcome.exit_code == 0 ? kReasonCompleted : kReasonError;
  }
  return outcome;
}

Outcome OutcomeOf(const supervisor::v1::ContainerState& state) {
  if (state.start_errno() != 0) {
    Outcome outcome;
    outcome.exit_code = kStartErrorExitCode;
    outcome.reason = kReasonStartError;
    outcome.message = state.message().empty() ? absl::StrCat("the command cannot be executed: ",
                                                             sys::ErrnoName(state.start_errno()))
                                              : sys::ValidUtf8(state.message());
    return outcome;
  }
  return OutcomeOf(state.wait_status(), state.oom_killed(), state.message());
}

Outcome SupervisorLostOutcome() {
  return {kKilledExitCode, kReasonSupervisorLost,
          "the pod's supervisor ended unexpectedly; the container was killed and its own exit "
          "status is not known"};
}

}  // namespace davit::sandbox
