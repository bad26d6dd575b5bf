#include "cri/verbose_info.h"

#include <fcntl.h>
#include <google/protobuf/util/json_util.h>

#include "absl/strings/str_cat.h"
#include "cri/metadata.h"
#include "nlohmann/json.hpp"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

using nlohmann::json;

constexpr size_t kMaxSpecBytes = 4 << 20;

std::string Dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

// `text` as JSON; null if it is none.
json Parse(const std::string& text) {
  json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return document.is_discarded() ? json(nullptr) : document;
}

// With the field names of the .proto file, as other runtimes show configurations.
json FromMessage(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(message, &text, options).ok()) return nullptr;
  return Parse(text);
}

// protobuf writes bytes as base64; people want to read an environment.
json FromConfig(const ::runtime::v1::ContainerConfig& config) {
  json document = FromMessage(config);
  if (!document.is_object() || config.envs().empty()) return document;
  json envs = json::array();
  for (const auto& env : config.envs()) {
    envs.push_back({{"key", env.key()}, {"value", env.value()}});
  }
  document["envs"] = std::move(envs);
  return document;
}

}  // namespace

std::string PodInfo(const sandbox::PodView& view) {
  const bool ready = view.state == sandbox::PodState::kReady;
  json info = {
      {"pid", view.pid},
      {"processStatus", ready ? "running" : "deleted"},
      {"netNamespaceClosed", !ready},
      {"netns", view.netns_path},
      {"cgroupPath", view.cgroup_path},
      {"runtimeHandler", view.runtime_handler},
      {"runtimeType", "davit"},
      {"image", ""},
      {"snapshotKey", view.id},
      {"snapshotter", "overlayfs"},
      {"hostnamePath", view.hostname_path},
      {"hostsPath", view.hosts_path},
      {"resolvConfPath", view.resolv_conf_path},
      {"config", FromMessage(PodMetadata::Of(view).config())},
      {"cniResult", Parse(view.cni_result)},
  };
  if (!view.reason.empty()) info["reason"] = view.reason;
  return Dump(info);
}

std::string ContainerInfo(const sandbox::ContainerView& view) {
  const ContainerMetadata& metadata = ContainerMetadata::Of(view);
  json info = {
      {"sandboxID", view.pod_id},
      {"pid", view.pid},
      {"removing", false},
      {"snapshotKey", view.id},
      {"snapshotter", "overlayfs"},
      {"upperDir", view.upper_dir},
      {"bundle", view.bundle_dir},
      {"cgroupPath", view.cgroup_path},
      {"runtimeType", "davit"},
      {"privileged", metadata.config().linux().security_context().privileged()},
      {"config", FromConfig(metadata.config())},
      {"log",
       {{"error", view.log_error},
        {"droppedLines", view.log_dropped_lines},
        {"droppedBytes", view.log_dropped_bytes}}},
  };
  const absl::StatusOr<std::string> spec =
      sys::ReadFileAt(AT_FDCWD, absl::StrCat(view.bundle_dir, "/config.json"), kMaxSpecBytes);
  if (spec.ok()) info["runtimeSpec"] = Parse(*spec);
  return Dump(info);
}

std::string ImageInfo(const images::Image& image) {
  const json info = {
      {"chainID", image.chain_id},
      {"manifestDigest", image.manifest_digest},
      {"labels", image.config.labels},
      {"imageSpec", Parse(image.config_json)},
  };
  return Dump(info);
}

}  // namespace davit::cri
