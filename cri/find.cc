#include "cri/find.h"

namespace davit::cri {

absl::StatusOr<std::shared_ptr<const sandbox::PodView>> FindPod(const sandbox::Manager& manager,
                                                                const std::string& id) {
  // "" would be a prefix of every id.
  if (id.empty()) return absl::InvalidArgumentError("pod_sandbox_id: is missing");
  return manager.FindPod(id);
}

absl::StatusOr<std::shared_ptr<const sandbox::ContainerView>> FindContainer(
    const sandbox::Manager& manager, const std::string& id) {
  if (id.empty()) return absl::InvalidArgumentError("container_id: is missing");
  return manager.FindContainer(id);
}

}  // namespace davit::cri
