#include "cri/translate_pod.h"

#include <arpa/inet.h>
#include <limits.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "cri/metadata.h"
#include "cri/nul_bytes.h"
#include "cri/user_namespace.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using sandbox::NamespaceMode;

constexpr size_t kMaxName = 1024;
constexpr int kMaxPortMappings = 65535;

absl::Status Invalid(absl::string_view field, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", why));
}

bool HasControl(absl::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) return true;
  }
  return false;
}

absl::Status CheckMetadata(const v1::PodSandboxConfig& config) {
  if (!config.has_metadata()) return Invalid("config.metadata", "is missing");
  const v1::PodSandboxMetadata& metadata = config.metadata();
  for (const auto& [field, value] :
       {std::pair<const char*, const std::string&>{"config.metadata.name", metadata.name()},
        {"config.metadata.namespace", metadata.namespace_()},
        {"config.metadata.uid", metadata.uid()}}) {
    if (value.empty()) return Invalid(field, "is missing");
    if (value.size() > kMaxName || HasControl(value)) {
      return Invalid(field, "is too long or contains control characters");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCgroupParent(const std::string& parent) {
  if (parent.empty()) return absl::OkStatus();
  if (parent.size() >= PATH_MAX || HasControl(parent)) {
    return Invalid("config.linux.cgroup_parent", "is too long or contains control characters");
  }
  for (const absl::string_view part : absl::StrSplit(parent, '/')) {
    if (part == "..") return Invalid("config.linux.cgroup_parent", "must not contain \"..\"");
  }
  return absl::OkStatus();
}

absl::StatusOr<NamespaceMode> Mode(absl::string_view field, v1::NamespaceMode mode,
                                   bool container_allowed) {
  switch (mode) {
    case v1::POD:
      return NamespaceMode::kPod;
    case v1::NODE:
      return NamespaceMode::kNode;
    case v1::CONTAINER:
      if (container_allowed) return NamespaceMode::kContainer;
      break;
    default:
      break;
  }
  return Invalid(absl::StrCat("config.linux.security_context.namespace_options.", field),
                 absl::StrCat("a pod cannot have mode ", static_cast<int>(mode)));
}

absl::Status TranslateNamespaces(const v1::NamespaceOption& options, sandbox::PodSpec* spec) {
  DAVIT_ASSIGN_OR_RETURN(spec->network, Mode("network", options.network(), false));
  DAVIT_ASSIGN_OR_RETURN(spec->ipc, Mode("ipc", options.ipc(), false));
  DAVIT_ASSIGN_OR_RETURN(spec->pid, Mode("pid", options.pid(), true));
  DAVIT_ASSIGN_OR_RETURN(UserNamespace userns, TranslateUserNamespace(options));
  spec->uid_mappings = std::move(userns.uids);
  spec->gid_mappings = std::move(userns.gids);
  return absl::OkStatus();
}

bool IsAddress(const std::string& text) {
  unsigned char address[sizeof(in6_addr)];
  return ::inet_pton(AF_INET, text.c_str(), address) == 1 ||
         ::inet_pton(AF_INET6, text.c_str(), address) == 1;
}

absl::StatusOr<sandbox::PortMapping> TranslatePort(const v1::PortMapping& from) {
  sandbox::PortMapping to;
  switch (from.protocol()) {
    case v1::TCP:
      to.protocol = "tcp";
      break;
    case v1::UDP:
      to.protocol = "udp";
      break;
    case v1::SCTP:
      to.protocol = "sctp";
      break;
    default:
      return Invalid("protocol", absl::StrCat("unknown: ", static_cast<int>(from.protocol())));
  }
  if (from.container_port() < 1 || from.container_port() > 65535) {
    return Invalid("container_port",
                   absl::StrCat(from.container_port(), " is not between 1 and 65535"));
  }
  if (from.host_port() < 0 || from.host_port() > 65535) {
    return Invalid("host_port", absl::StrCat(from.host_port(), " is not between 0 and 65535"));
  }
  if (!from.host_ip().empty() && !IsAddress(from.host_ip())) {
    return Invalid("host_ip",
                   absl::StrCat("\"", from.host_ip().substr(0, 64), "\" is no IP address"));
  }
  to.container_port = from.container_port();
  to.host_port = from.host_port();
  to.host_ip = from.host_ip();
  return to;
}

absl::Status TranslatePorts(const v1::PodSandboxConfig& config, sandbox::PodSpec* spec) {
  if (config.port_mappings_size() > kMaxPortMappings) {
    return Invalid("config.port_mappings", "are too many");
  }
  for (int i = 0; i < config.port_mappings_size(); ++i) {
    absl::StatusOr<sandbox::PortMapping> port = TranslatePort(config.port_mappings(i));
    if (!port.ok()) {
      return sys::Annotate(port.status(), absl::StrCat("config.port_mappings[", i, "]"));
    }
    spec->port_mappings.push_back(*std::move(port));
  }
  return absl::OkStatus();
}

// The sandbox layer opens both for everyone unless the pod says otherwise; the node may say so,
// too.
void CloseUnprivileged(const PodOptions& options, sandbox::PodSpec* spec) {
  if (spec->network == NamespaceMode::kNode) return;
  if (!options.unprivileged_ports) {
    spec->sysctls.emplace("net.ipv4.ip_unprivileged_port_start", "1024");
  }
  if (!options.unprivileged_icmp) spec->sysctls.emplace("net.ipv4.ping_group_range", "1 0");
}

}  // namespace

absl::Status CheckRuntimeHandler(absl::string_view handler) {
  if (handler.empty() || handler == kRuntimeHandler) return absl::OkStatus();
  return Invalid("runtime_handler", absl::StrCat("unknown: \"", handler.substr(0, 256),
                                                 "\"; this node has \"", kRuntimeHandler, "\""));
}

std::string PodKey(const v1::PodSandboxMetadata& metadata) {
  return absl::StrCat(metadata.name(), "_", metadata.namespace_(), "_", metadata.uid(), "_",
                      metadata.attempt());
}

absl::StatusOr<sandbox::PodSpec> TranslatePod(const v1::PodSandboxConfig& config,
                                              absl::string_view runtime_handler,
                                              const PodOptions& options) {
  DAVIT_RETURN_IF_ERROR(CheckNoNulBytes(config, "config"));
  DAVIT_RETURN_IF_ERROR(CheckMetadata(config));
  DAVIT_RETURN_IF_ERROR(CheckRuntimeHandler(runtime_handler));
  DAVIT_RETURN_IF_ERROR(CheckCgroupParent(config.linux().cgroup_parent()));
  if (!config.log_directory().empty() &&
      (config.log_directory()[0] != '/' || HasControl(config.log_directory()))) {
    return Invalid("config.log_directory", "is not an absolute path");
  }
  if (config.hostname().size() > HOST_NAME_MAX) {
    return Invalid("config.hostname", absl::StrCat("is longer than ", HOST_NAME_MAX, " bytes"));
  }
  // It becomes a line of /etc/hosts and an environment variable.
  if (HasControl(config.hostname()) || absl::StrContains(config.hostname(), "/")) {
    return Invalid("config.hostname", "contains a slash or control characters");
  }
  sandbox::PodSpec spec;
  DAVIT_RETURN_IF_ERROR(
      TranslateNamespaces(config.linux().security_context().namespace_options(), &spec));
  if (!spec.uid_mappings.empty()) DAVIT_RETURN_IF_ERROR(options.user_namespaces);
  DAVIT_RETURN_IF_ERROR(TranslatePorts(config, &spec));
  spec.name_key = PodKey(config.metadata());
  spec.name = config.metadata().name();
  spec.name_space = config.metadata().namespace_();
  spec.uid = config.metadata().uid();
  spec.hostname = config.hostname();
  spec.cgroup_parent = config.linux().cgroup_parent();
  spec.sysctls = {config.linux().sysctls().begin(), config.linux().sysctls().end()};
  CloseUnprivileged(options, &spec);
  if (config.has_dns_config()) {
    const v1::DNSConfig& dns = config.dns_config();
    spec.dns = sandbox::DnsConfig{{dns.servers().begin(), dns.servers().end()},
                                  {dns.searches().begin(), dns.searches().end()},
                                  {dns.options().begin(), dns.options().end()}};
  }
  spec.annotations = {config.annotations().begin(), config.annotations().end()};
  spec.runtime_handler = std::string(runtime_handler);
  spec.metadata = std::make_shared<const PodMetadata>(config);
  return spec;
}

}  // namespace davit::cri
