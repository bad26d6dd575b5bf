#include "cri/create_container.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "cri/find.h"
#include "cri/merged_file.h"
#include "cri/metadata.h"
#include "cri/translate_container.h"
#include "cri/user_lookup.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

// Real ones have a few kilobytes.
constexpr size_t kMaxUserFile = 4 << 20;
// Each may become a mount; an image config of 8 MiB has room for a million.
constexpr size_t kMaxVolumes = 128;

absl::StatusOr<std::shared_ptr<const images::Image>> FindImage(const images::ImageService& images,
                                                               const std::string& reference) {
  std::shared_ptr<const images::Image> image = images.Find(reference);
  if (image == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("image \"", reference, "\" is not on this node; pull it first"));
  }
  return image;
}

// An image without the file has no names.
absl::StatusOr<std::string> ReadUserFile(const std::vector<std::string>& layers, const char* path) {
  absl::StatusOr<std::string> text = ReadMergedFile(layers, path, kMaxUserFile);
  if (absl::IsNotFound(text.status())) return std::string();
  return text;
}

// What only the image's layers can tell.
absl::Status LookIntoImage(images::ImageService* images, const v1::ContainerConfig& config,
                           ContainerInputs* inputs) {
  if (inputs->image->config.volumes.size() > kMaxVolumes) {
    return absl::FailedPreconditionError(
        absl::StrCat("image ", inputs->image->id, " declares more than ", kMaxVolumes, " volumes"));
  }
  DAVIT_ASSIGN_OR_RETURN(const std::unique_ptr<images::LayerPin> pin,
                         images->PinLayers(inputs->image->id));
  const std::vector<std::string>& layers = pin->lower_dirs();
  DAVIT_ASSIGN_OR_RETURN(const std::string passwd, ReadUserFile(layers, "/etc/passwd"));
  DAVIT_ASSIGN_OR_RETURN(const std::string group, ReadUserFile(layers, "/etc/group"));
  DAVIT_ASSIGN_OR_RETURN(inputs->user,
                         ResolveUser(RequestedUser(config, inputs->image->config), passwd, group));
  for (const std::string& volume : inputs->image->config.volumes) {
    if (!MergedDirectoryExists(layers, volume)) inputs->missing_volumes.push_back(volume);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> FindTarget(const sandbox::Manager& manager, const std::string& pod_id,
                                       const std::string& target) {
  DAVIT_ASSIGN_OR_RETURN(const auto view, FindContainer(manager, target));
  if (view->pod_id != pod_id) {
    return absl::InvalidArgumentError(
        absl::StrCat("namespace_options.target_id: container ", target, " is not in this pod"));
  }
  if (view->state != sandbox::ContainerState::kRunning) {
    return absl::FailedPreconditionError(
        absl::StrCat("namespace_options.target_id: container ", target, " is not running"));
  }
  return view->id;
}

}  // namespace

absl::StatusOr<std::string> CreateContainer(sandbox::Manager* manager, images::ImageService* images,
                                            const Node& node,
                                            const v1::CreateContainerRequest& request) {
  const v1::ContainerConfig& config = request.config();
  DAVIT_RETURN_IF_ERROR(CheckContainer(config));
  DAVIT_ASSIGN_OR_RETURN(const auto pod, FindPod(*manager, request.pod_sandbox_id()));
  DAVIT_ASSIGN_OR_RETURN(const auto image, FindImage(*images, config.image().image()));
  ContainerInputs inputs;
  inputs.pod = pod.get();
  inputs.pod_config = &PodMetadata::Of(*pod).config();
  inputs.image = image.get();
  inputs.node = &node;
  inputs.find_target = [&](const std::string& target) {
    return FindTarget(*manager, pod->id, target);
  };
  const std::string what = absl::StrCat("create container \"", config.metadata().name(), "\"");
  DAVIT_RETURN_IF_ERROR(sys::Annotate(LookIntoImage(images, config, &inputs), what));
  auto spec = TranslateContainer(config, inputs);
  if (!spec.ok()) return sys::Annotate(spec.status(), what);
  return manager->CreateContainer(*std::move(spec));
}

}  // namespace davit::cri
