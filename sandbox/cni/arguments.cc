#include "sandbox/cni/arguments.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "sandbox/cni/json.h"

namespace davit::sandbox::cni {
namespace {

// Bits that may pass at once before the rate applies: the plugin wants a number, and a small one
// slows down every short transfer.
constexpr int64_t kBurstBits = INT32_MAX;
constexpr char kIngress[] = "kubernetes.io/ingress-bandwidth";
constexpr char kEgress[] = "kubernetes.io/egress-bandwidth";

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("CNI request: ", what));
}

bool IsInterfaceName(absl::string_view name) {
  return !name.empty() && name.size() < 16 && name != "." && name != ".." &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) {
           return c == '/' || c == ':' || absl::ascii_isspace(c) || c < 0x20;
         });
}

nlohmann::json PortMappings(const Request& request) {
  nlohmann::json mappings = nlohmann::json::array();
  for (const PortMapping& mapping : request.port_mappings) {
    if (mapping.host_port <= 0) continue;
    nlohmann::json entry = {
        {"hostPort", mapping.host_port},
        {"containerPort", mapping.container_port},
        {"protocol", mapping.protocol.empty() ? "tcp" : absl::AsciiStrToLower(mapping.protocol)}};
    if (!mapping.host_ip.empty()) entry["hostIP"] = mapping.host_ip;
    mappings.push_back(std::move(entry));
  }
  return mappings;
}

absl::StatusOr<nlohmann::json> Bandwidth(const Request& request) {
  nlohmann::json bandwidth = nlohmann::json::object();
  for (const auto& [annotation, rate, burst] : {std::tuple{kIngress, "ingressRate", "ingressBurst"},
                                                std::tuple{kEgress, "egressRate", "egressBurst"}}) {
    const auto found = request.annotations.find(annotation);
    if (found == request.annotations.end() || found->second.empty()) continue;
    const auto value = ParseQuantity(found->second);
    if (!value.ok()) {
      return Malformed(absl::StrCat("annotation ", annotation, ": ", value.status().message()));
    }
    bandwidth[rate] = *value;
    bandwidth[burst] = kBurstBits;
  }
  return bandwidth;
}

}  // namespace

bool IsContainerId(absl::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         absl::ascii_isalnum(static_cast<unsigned char>(id[0])) &&
         std::all_of(id.begin(), id.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-';
         });
}

absl::Status CheckRequest(const Request& request) {
  if (!IsContainerId(request.sandbox_id)) {
    return Malformed(absl::StrCat("sandbox id \"", request.sandbox_id, "\""));
  }
  if (!IsInterfaceName(request.interface)) {
    return Malformed(absl::StrCat("interface name \"", request.interface, "\""));
  }
  if (!absl::StartsWith(request.netns_path, "/")) {
    return Malformed(absl::StrCat("network namespace \"", request.netns_path, "\""));
  }
  for (const PortMapping& mapping : request.port_mappings) {
    if (mapping.host_port < 0 || mapping.host_port > 65535 || mapping.container_port < 0 ||
        mapping.container_port > 65535) {
      return Malformed(
          absl::StrCat("port mapping ", mapping.host_port, " to ", mapping.container_port));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> MakeCniArgs(const Request& request) {
  std::string args = "IgnoreUnknown=1";
  for (const auto& [key, value] : {std::pair{"K8S_POD_NAMESPACE", request.pod_namespace},
                                   std::pair{"K8S_POD_NAME", request.pod_name},
                                   std::pair{"K8S_POD_INFRA_CONTAINER_ID", request.sandbox_id},
                                   std::pair{"K8S_POD_UID", request.pod_uid}}) {
    if (value.find_first_of(std::string(";\n\0", 3)) != std::string::npos) {
      return Malformed(absl::StrCat(key, " \"", value, "\""));
    }
    absl::StrAppend(&args, ";", key, "=", value);
  }
  return args;
}

absl::StatusOr<std::string> MakeCapabilityArgs(const Request& request) {
  nlohmann::json args = nlohmann::json::object();
  if (nlohmann::json mappings = PortMappings(request); !mappings.empty()) {
    args["portMappings"] = std::move(mappings);
  }
  DAVIT_ASSIGN_OR_RETURN(nlohmann::json bandwidth, Bandwidth(request));
  if (!bandwidth.empty()) args["bandwidth"] = std::move(bandwidth);
  if (request.dns.has_value()) {
    args["dns"] = {{"servers", request.dns->servers},
                   {"searches", request.dns->searches},
                   {"options", request.dns->options}};
  }
  if (!request.annotations.empty()) {
    args["io.kubernetes.cri.pod-annotations"] = request.annotations;
  }
  std::string text = DumpJson(args);
  // It is read again for each plugin, at the latest for DEL.
  if (text.size() > kMaxJson) {
    return Malformed(absl::StrCat("annotations, port mappings and DNS settings have ", text.size(),
                                  " bytes; the limit is ", kMaxJson));
  }
  return text;
}

absl::StatusOr<uint64_t> ParseQuantity(absl::string_view text) {
  static constexpr std::pair<absl::string_view, double> kSuffixes[] = {
      {"Ki", 1024.0},
      {"Mi", 1048576.0},
      {"Gi", 1073741824.0},
      {"Ti", 1099511627776.0},
      {"Pi", 1125899906842624.0},
      {"Ei", 1152921504606846976.0},
      {"n", 1e-9},
      {"u", 1e-6},
      {"m", 1e-3},
      {"k", 1e3},
      {"M", 1e6},
      {"G", 1e9},
      {"T", 1e12},
      {"P", 1e15},
      {"E", 1e18},
  };
  double scale = 1;
  absl::string_view number = text;
  for (const auto& [suffix, factor] : kSuffixes) {
    if (absl::EndsWith(text, suffix)) {
      scale = factor;
      number = text.substr(0, text.size() - suffix.size());
      break;
    }
  }
  double value = 0;
  const bool digits_only =
      !number.empty() && number.find_first_not_of("0123456789.eE+-") == absl::string_view::npos;
  if (!digits_only || !absl::SimpleAtod(number, &value) || !std::isfinite(value) || value < 0 ||
      value * scale >= 9e18) {
    return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" is not a quantity"));
  }
  return static_cast<uint64_t>(std::ceil(value * scale));
}

absl::StatusOr<std::string> MakePluginInput(absl::string_view plugin_json, absl::string_view name,
                                            absl::string_view cni_version,
                                            absl::string_view capability_args,
                                            absl::string_view previous_result) {
  DAVIT_ASSIGN_OR_RETURN(nlohmann::json input, ParseJson(plugin_json, "CNI plugin configuration"));
  DAVIT_ASSIGN_OR_RETURN(const nlohmann::json arguments,
                         ParseJson(capability_args, "CNI capability arguments"));
  input["name"] = std::string(name);
  input["cniVersion"] = std::string(cni_version);
  nlohmann::json runtime_config = nlohmann::json::object();
  if (const auto declared = input.find("capabilities"); declared != input.end()) {
    for (const auto& [capability, enabled] : declared->items()) {
      const auto argument = arguments.find(capability);
      if (enabled == true && argument != arguments.end()) runtime_config[capability] = *argument;
    }
  }
  // The runtime's own, never what a file says: plugins trust it.
  input.erase("runtimeConfig");
  input.erase("prevResult");
  input.erase("capabilities");
  if (!runtime_config.empty()) input["runtimeConfig"] = std::move(runtime_config);
  if (!previous_result.empty()) {
    DAVIT_ASSIGN_OR_RETURN(input["prevResult"], ParseJson(previous_result, "CNI result"));
  }
  return DumpJson(input);
}

}  // namespace davit::sandbox::cni
