#include "cri/node.h"

#include <limits.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "runtime/sys/capability.h"
#include "runtime/sys/errno.h"
#include "sandbox/process_limits.h"

namespace davit::cri {

absl::StatusOr<Node> InspectNode(sys::KernelFeatures features) {
  Node node;
  node.features = std::move(features);
  DAVIT_ASSIGN_OR_RETURN(const sandbox::ProcessLimits limits, sandbox::ReadProcessLimits());
  DAVIT_ASSIGN_OR_RETURN(const uint64_t bounding, sys::BoundingCapabilities());
  node.capabilities = limits.capability_ceiling & bounding;
  node.oom_score_adj_floor = limits.oom_score_adj_floor;
  char name[HOST_NAME_MAX + 1] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return sys::ErrnoStatus(errno, "gethostname");
  node.hostname = name;
  return node;
}

}  // namespace davit::cri
