#ifndef DAVIT_SANDBOX_CONTAINER_OUTCOME_H_
#define DAVIT_SANDBOX_CONTAINER_OUTCOME_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace davit::supervisor::v1 {
class ContainerState;
}

namespace davit::sandbox {

inline constexpr char kReasonCompleted[] = "Completed";
inline constexpr char kReasonError[] = "Error";
inline constexpr char kReasonOomKilled[] = "OOMKilled";
inline constexpr char kReasonStartError[] = "StartError";
inline constexpr char kReasonSupervisorLost[] = "SupervisorLost";

inline constexpr int kStartErrorExitCode = 128;
inline constexpr int kKilledExitCode = 137;

// How a container ended, in CRI's words.
struct Outcome {
  int32_t exit_code = 0;
  std::string reason;
  std::string message;
};

// exit_code as a shell gives it: the status, or 128 + the signal's number. The reason is OOMKilled
// only if the kernel's OOM killer struck in the container's group *and* the init died by SIGKILL
// (or reports 137 for its child): a container that survived the death of a child ended for a reason
// of its own.
Outcome OutcomeOf(const supervisor::v1::ContainerState& state);
Outcome OutcomeOf(int wait_status, bool oom_killed, absl::string_view message);

// What is said of one whose supervisor is gone and whose status nobody can tell any more.
Outcome SupervisorLostOutcome();

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_CONTAINER_OUTCOME_H_
