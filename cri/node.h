#ifndef DAVIT_CRI_NODE_H_
#define DAVIT_CRI_NODE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/sys/features.h"

namespace davit::cri {

// What this machine and this daemon can give a container, found once at start. A plain value.
struct Node {
  sys::KernelFeatures features;
  // The most that "all capabilities" can be: permitted and in the bounding set.
  uint64_t capabilities = 0;
  // Containers' oom_score_adj cannot go below this: the daemon's own, unless it may lower it.
  int oom_score_adj_floor = -1000;
  std::string hostname;
  absl::Status user_namespaces;  // OK, or why pods cannot have them
};

absl::StatusOr<Node> InspectNode(sys::KernelFeatures features);

}  // namespace davit::cri

#endif  // DAVIT_CRI_NODE_H_
