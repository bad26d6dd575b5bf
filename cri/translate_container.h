#ifndef DAVIT_CRI_TRANSLATE_CONTAINER_H_
#define DAVIT_CRI_TRANSLATE_CONTAINER_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cri/node.h"
#include "cri/user_lookup.h"
#include "images/image.h"
#include "sandbox/manager.h"

namespace runtime::v1 {
class ContainerConfig;
class PodSandboxConfig;
}  // namespace runtime::v1

namespace davit::cri {

// Everything that a container's specification is made from, apart from its own configuration.
struct ContainerInputs {
  const sandbox::PodView* pod = nullptr;
  const ::runtime::v1::PodSandboxConfig* pod_config = nullptr;
  const images::Image* image = nullptr;
  const Node* node = nullptr;
  ResolvedUser user;
  // Of the image's VOLUMEs those that its layers have no directory for.
  std::vector<std::string> missing_volumes;
  // Resolves the target of pid mode TARGET to a full id, in the same pod.
  std::function<absl::StatusOr<std::string>(const std::string&)> find_target;
};

// Missing metadata or image, a bad log path: what can be said before the image is looked up.
absl::Status CheckContainer(const ::runtime::v1::ContainerConfig& config);

// What to ask ResolveUser for.
UserRequest RequestedUser(const ::runtime::v1::ContainerConfig& config,
                          const images::ImageConfig& image);

// A container as CRI describes it -> as the manager makes it: the complete config.json but for what
// the pod decides. Reads seccomp profiles and device nodes, otherwise pure; thread-safe.
// InvalidArgument and others name the field.
absl::StatusOr<sandbox::ContainerSpec> TranslateContainer(
    const ::runtime::v1::ContainerConfig& config, const ContainerInputs& inputs);

}  // namespace davit::cri

#endif  // DAVIT_CRI_TRANSLATE_CONTAINER_H_
