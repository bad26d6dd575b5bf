#include "cri/status.h"

#include "absl/strings/match.h"
#include "cri/metadata.h"
#include "cri/signals.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

v1::PodSandboxState State(const sandbox::PodView& view) {
  return view.state == sandbox::PodState::kReady ? v1::SANDBOX_READY : v1::SANDBOX_NOTREADY;
}

v1::ContainerState State(const sandbox::ContainerView& view) {
  switch (view.state) {
    case sandbox::ContainerState::kCreated:
      return v1::CONTAINER_CREATED;
    case sandbox::ContainerState::kRunning:
      return v1::CONTAINER_RUNNING;
    case sandbox::ContainerState::kExited:
      return v1::CONTAINER_EXITED;
    case sandbox::ContainerState::kUnknown:
      break;
  }
  return v1::CONTAINER_UNKNOWN;
}

// As asked for; but a bare id, which the kubelet sends, is shown as what the user wrote.
v1::ImageSpec ShownImage(const v1::ContainerConfig& config) {
  v1::ImageSpec image = config.image();
  if (absl::StartsWith(image.image(), "sha256:") && !image.user_specified_image().empty()) {
    image.set_image(image.user_specified_image());
  }
  return image;
}

template <typename Selector, typename Labels>
bool MatchesLabels(const Selector& selector, const Labels& labels) {
  for (const auto& [key, value] : selector) {
    const auto found = labels.find(key);
    if (found == labels.end() || found->second != value) return false;
  }
  return true;
}

}  // namespace

void ToPodSandbox(const sandbox::PodView& view, v1::PodSandbox* out) {
  const v1::PodSandboxConfig& config = PodMetadata::Of(view).config();
  out->set_id(view.id);
  *out->mutable_metadata() = config.metadata();
  out->set_state(State(view));
  out->set_created_at(view.created_at);
  *out->mutable_labels() = config.labels();
  *out->mutable_annotations() = config.annotations();
  out->set_runtime_handler(view.runtime_handler);
}

void ToPodSandboxStatus(const sandbox::PodView& view, v1::PodSandboxStatus* out) {
  const v1::PodSandboxConfig& config = PodMetadata::Of(view).config();
  out->set_id(view.id);
  *out->mutable_metadata() = config.metadata();
  out->set_state(State(view));
  out->set_created_at(view.created_at);
  out->mutable_network();
  // The addresses of a pod that was taken down are someone else's by now.
  if (view.state == sandbox::PodState::kReady && !view.ips.empty()) {
    out->mutable_network()->set_ip(view.ips[0]);
    for (size_t i = 1; i < view.ips.size(); ++i) {
      out->mutable_network()->add_additional_ips()->set_ip(view.ips[i]);
    }
  }
  *out->mutable_linux()->mutable_namespaces()->mutable_options() =
      config.linux().security_context().namespace_options();
  *out->mutable_labels() = config.labels();
  *out->mutable_annotations() = config.annotations();
  out->set_runtime_handler(view.runtime_handler);
}

void ToContainer(const sandbox::ContainerView& view, v1::Container* out) {
  const v1::ContainerConfig& config = ContainerMetadata::Of(view).config();
  out->set_id(view.id);
  out->set_pod_sandbox_id(view.pod_id);
  *out->mutable_metadata() = config.metadata();
  *out->mutable_image() = ShownImage(config);
  out->set_image_ref(view.image_id);
  out->set_image_id(view.image_id);
  out->set_state(State(view));
  out->set_created_at(view.created_at);
  *out->mutable_labels() = config.labels();
  *out->mutable_annotations() = config.annotations();
}

void ToContainerStatus(const sandbox::ContainerView& view, v1::ContainerStatus* out) {
  const ContainerMetadata& metadata = ContainerMetadata::Of(view);
  const v1::ContainerConfig& config = metadata.config();
  out->set_id(view.id);
  *out->mutable_metadata() = config.metadata();
  out->set_state(State(view));
  out->set_created_at(view.created_at);
  out->set_started_at(view.started_at);
  out->set_finished_at(view.finished_at);
  out->set_exit_code(view.exit_code);
  *out->mutable_image() = ShownImage(config);
  out->set_image_ref(view.image_id);
  out->set_image_id(view.image_id);
  out->set_reason(view.reason);
  out->set_message(view.message);
  *out->mutable_labels() = config.labels();
  *out->mutable_annotations() = config.annotations();
  *out->mutable_mounts() = config.mounts();
  out->set_log_path(view.log_path);
  *out->mutable_resources()->mutable_linux() = config.linux().resources();
  v1::LinuxContainerUser* user = out->mutable_user()->mutable_linux();
  user->set_uid(metadata.user().uid);
  user->set_gid(metadata.user().gid);
  for (const int64_t group : metadata.user().groups) user->add_supplemental_groups(group);
  out->set_stop_signal(static_cast<v1::Signal>(SignalToCri(view.stop_signal)));
}

bool Matches(const v1::PodSandboxFilter& filter, const sandbox::PodView& view) {
  if (!absl::StartsWith(view.id, filter.id())) return false;
  if (filter.has_state() && filter.state().state() != State(view)) return false;
  return MatchesLabels(filter.label_selector(), PodMetadata::Of(view).config().labels());
}

bool Matches(const v1::ContainerFilter& filter, const sandbox::ContainerView& view) {
  if (!absl::StartsWith(view.id, filter.id())) return false;
  if (!absl::StartsWith(view.pod_id, filter.pod_sandbox_id())) return false;
  if (filter.has_state() && filter.state().state() != State(view)) return false;
  return MatchesLabels(filter.label_selector(), ContainerMetadata::Of(view).config().labels());
}

}  // namespace davit::cri
