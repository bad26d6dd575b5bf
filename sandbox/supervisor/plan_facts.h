#ifndef DAVIT_SANDBOX_SUPERVISOR_PLAN_FACTS_H_
#define DAVIT_SANDBOX_SUPERVISOR_PLAN_FACTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace davit::sandbox {

// What the supervisor itself has to know of a plan that it executes.
struct PlanFacts {
  std::vector<std::string> cgroups;  // directories that it makes, in order
  bool new_pid_namespace = false;    // the process is PID 1 of one of its own
  bool terminal = false;
};

// InvalidArgument if the memfd holds no sound plan.
absl::StatusOr<PlanFacts> ReadPlanFacts(int plan_fd);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_PLAN_FACTS_H_
