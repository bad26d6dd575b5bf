#include "sandbox/process_limits.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/resource.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/sys/capability.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

constexpr struct {
  int resource;
  const char* name;
} kRlimits[] = {
    {RLIMIT_AS, "RLIMIT_AS"},
    {RLIMIT_CORE, "RLIMIT_CORE"},
    {RLIMIT_CPU, "RLIMIT_CPU"},
    {RLIMIT_DATA, "RLIMIT_DATA"},
    {RLIMIT_FSIZE, "RLIMIT_FSIZE"},
    {RLIMIT_LOCKS, "RLIMIT_LOCKS"},
    {RLIMIT_MEMLOCK, "RLIMIT_MEMLOCK"},
    {RLIMIT_MSGQUEUE, "RLIMIT_MSGQUEUE"},
    {RLIMIT_NICE, "RLIMIT_NICE"},
    {RLIMIT_NOFILE, "RLIMIT_NOFILE"},
    {RLIMIT_NPROC, "RLIMIT_NPROC"},
    {RLIMIT_RSS, "RLIMIT_RSS"},
    {RLIMIT_RTPRIO, "RLIMIT_RTPRIO"},
    {RLIMIT_RTTIME, "RLIMIT_RTTIME"},
    {RLIMIT_SIGPENDING, "RLIMIT_SIGPENDING"},
    {RLIMIT_STACK, "RLIMIT_STACK"},
};

bool Has(uint64_t set, int capability) { return (set & sys::CapabilityBit(capability)) != 0; }

}  // namespace

absl::StatusOr<ProcessLimits> ReadProcessLimits() {
  ProcessLimits limits;
  DAVIT_ASSIGN_OR_RETURN(limits.capability_ceiling, sys::PermittedCapabilities());
  if (Has(limits.capability_ceiling, CAP_SYS_RESOURCE)) return limits;
  DAVIT_ASSIGN_OR_RETURN(const std::string own,
                         sys::ReadFileAt(AT_FDCWD, "/proc/self/oom_score_adj", 32));
  if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(own), &limits.oom_score_adj_floor)) {
    return absl::InternalError(absl::StrCat("/proc/self/oom_score_adj holds \"", own, "\""));
  }
  for (const auto& [resource, name] : kRlimits) {
    rlimit value;
    if (getrlimit(static_cast<__rlimit_resource_t>(resource), &value) != 0) {
      return sys::ErrnoStatus(errno, absl::StrCat("getrlimit ", name));
    }
    if (value.rlim_max == RLIM_INFINITY) continue;
    limits.rlimit_ceiling.push_back({name, value.rlim_max, value.rlim_max});
  }
  return limits;
}

std::vector<std::string> DescribeLimits(const ProcessLimits& limits, uint64_t all_capabilities) {
  std::vector<std::string> sentences;
  const uint64_t missing = all_capabilities & ~limits.capability_ceiling;
  if (missing != 0) {
    sentences.push_back(
        absl::StrCat("containers cannot be given these capabilities, which davitd itself lacks: ",
                     absl::StrJoin(sys::CapabilityNames(missing), ", ")));
  }
  if (limits.oom_score_adj_floor > -1000) {
    sentences.push_back(absl::StrCat("without CAP_SYS_RESOURCE an oom_score_adj below ",
                                     limits.oom_score_adj_floor, " is raised to it"));
  }
  if (!limits.rlimit_ceiling.empty()) {
    std::vector<std::string> names;
    for (const auto& limit : limits.rlimit_ceiling) {
      names.push_back(absl::StrCat(limit.type, " ", limit.hard));
    }
    sentences.push_back(
        absl::StrCat("without CAP_SYS_RESOURCE hard limits of containers end at davitd's own: ",
                     absl::StrJoin(names, ", ")));
  }
  return sentences;
}

}  // namespace davit::sandbox
