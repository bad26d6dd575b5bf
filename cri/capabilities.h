#ifndef DAVIT_CRI_CAPABILITIES_H_
#define DAVIT_CRI_CAPABILITIES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"

namespace davit::cri {

// CRI's Capability message, and the privileged flag that overrides it.
struct CapabilityRequest {
  std::vector<std::string> add;
  std::vector<std::string> drop;
  std::vector<std::string> add_ambient;
  bool privileged = false;
};

// The sets that a container gets. It starts from the 14 that containerd and Docker grant; "ALL" in
// `add`, then "ALL" in `drop`, then single additions, then single drops apply. Names come in any
// case, with or without CAP_. "All" are those in `available` (the daemon's own), and what the
// defaults lack there is left out; a capability that was asked for by name and is not in
// `available` is FailedPrecondition; an unknown name InvalidArgument. Inheritable stays empty,
// since execve would hand it on to any file with capabilities (CVE-2022-24769), but for the ambient
// ones, which the kernel wants there too (man 7 capabilities).
// `*set` is the effective set with bit N for capability N. Pure and thread-safe.
absl::StatusOr<runtime::spec::Capabilities> BuildCapabilities(const CapabilityRequest& request,
                                                              uint64_t available, uint64_t* set);

}  // namespace davit::cri

#endif  // DAVIT_CRI_CAPABILITIES_H_
