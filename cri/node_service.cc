#include "cri/node_service.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "cri/translate_pod.h"
#include "proto/api.pb.h"
#include "runtime/sys/version.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using Runs = Method::Runs;

void FillVersion(v1::VersionResponse* out) {
  out->set_version("0.1.0");  // of the interface that the kubelet once negotiated
  out->set_runtime_name("davit");
  out->set_runtime_version(sys::Version());
  out->set_runtime_api_version("v1");
}

std::string FeaturesJson(const sys::KernelFeatures& features) {
  std::string json = "{";
  for (const auto& [name, value] : sys::ListFeatures(features)) {
    absl::StrAppend(&json, json.size() > 1 ? "," : "", "\"", name, "\":\"", value, "\"");
  }
  return json + "}";
}

void FillStatus(const NodeService& service, bool verbose, v1::StatusResponse* out) {
  v1::RuntimeCondition* runtime = out->mutable_status()->add_conditions();
  runtime->set_type("RuntimeReady");
  runtime->set_status(true);
  const sandbox::NetworkStatus state = service.manager->Network();
  v1::RuntimeCondition* network = out->mutable_status()->add_conditions();
  network->set_type("NetworkReady");
  network->set_status(state.ready);
  network->set_reason(state.reason);
  network->set_message(state.message);
  for (const char* name : {"", kRuntimeHandler}) {
    v1::RuntimeHandler* handler = out->add_runtime_handlers();
    handler->set_name(name);
    handler->mutable_features()->set_recursive_read_only_mounts(
        service.node.features.mount_setattr);
    handler->mutable_features()->set_user_namespaces(service.node.user_namespaces.ok());
  }
  out->mutable_features()->set_supplemental_groups_policy(true);
  out->mutable_features()->set_user_namespaces_host_network(service.node.user_namespaces.ok());
  if (!verbose) return;
  auto& info = *out->mutable_info();
  info["config"] = service.config_json;
  info["cniconfig"] = service.manager->CniConfigJson();
  info["kernel"] = FeaturesJson(service.node.features);
}

}  // namespace

std::vector<Method> NodeMethods(NodeService options) {
  const auto service = std::make_shared<const NodeService>(std::move(options));
  std::vector<Method> methods;
  methods.push_back(Unary<v1::VersionRequest, v1::VersionResponse>(
      "/runtime.v1.RuntimeService/Version", Runs::kInline, false,
      [](const v1::VersionRequest&, v1::VersionResponse* out) {
        FillVersion(out);
        return absl::OkStatus();
      }));
  methods.push_back(Unary<v1::StatusRequest, v1::StatusResponse>(
      "/runtime.v1.RuntimeService/Status", Runs::kOnWorker, false,
      [service](const v1::StatusRequest& request, v1::StatusResponse* out) {
        FillStatus(*service, request.verbose(), out);
        return absl::OkStatus();
      }));
  methods.push_back(Unary<v1::RuntimeConfigRequest, v1::RuntimeConfigResponse>(
      "/runtime.v1.RuntimeService/RuntimeConfig", Runs::kInline, false,
      [](const v1::RuntimeConfigRequest&, v1::RuntimeConfigResponse* out) {
        out->mutable_linux()->set_cgroup_driver(v1::CGROUPFS);
        return absl::OkStatus();
      }));
  // The pod network is CNI's own business, so there is nothing to be done with a pod CIDR.
  methods.push_back(Unary<v1::UpdateRuntimeConfigRequest, v1::UpdateRuntimeConfigResponse>(
      "/runtime.v1.RuntimeService/UpdateRuntimeConfig", Runs::kInline, true,
      [](const v1::UpdateRuntimeConfigRequest&, v1::UpdateRuntimeConfigResponse*) {
        return absl::OkStatus();
      }));
  return methods;
}

}  // namespace davit::cri
