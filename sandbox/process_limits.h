#ifndef DAVIT_SANDBOX_PROCESS_LIMITS_H_
#define DAVIT_SANDBOX_PROCESS_LIMITS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"

namespace davit::sandbox {

// What this daemon may give to a container at most. A daemon without CAP_SYS_RESOURCE (inside
// another container, say) can neither lower oom_score_adj below its own nor raise hard limits above
// its own (man 7 capabilities): asked-for values are clamped to these, never an error.
struct ProcessLimits {
  uint64_t capability_ceiling = 0;  // the daemon's permitted set
  int oom_score_adj_floor = -1000;
  std::vector<runtime::spec::Rlimit> rlimit_ceiling;  // empty: no limit
};

// Reads the calling process's.
absl::StatusOr<ProcessLimits> ReadProcessLimits();

// One sentence for each thing that containers do not get on this node; none if they get all.
std::vector<std::string> DescribeLimits(const ProcessLimits& limits, uint64_t all_capabilities);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_PROCESS_LIMITS_H_
