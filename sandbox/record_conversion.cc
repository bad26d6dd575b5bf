#include "sandbox/record_conversion.h"

#include "absl/strings/str_cat.h"
#include "proto/state.pb.h"
#include "runtime/sys/errno.h"
#include "sandbox/pod_files.h"

namespace davit::sandbox {
namespace {

// A mode that this version does not know isolates most.
NamespaceMode ToMode(uint32_t value) {
  return value <= static_cast<uint32_t>(NamespaceMode::kTarget) ? static_cast<NamespaceMode>(value)
                                                                : NamespaceMode::kContainer;
}

template <typename Repeated>
void Append(const std::vector<std::string>& from, Repeated* to) {
  to->Clear();
  for (const std::string& value : from) *to->Add() = value;
}

template <typename Records>
std::vector<runtime::spec::IdMapping> MapsFrom(const Records& records) {
  std::vector<runtime::spec::IdMapping> maps;
  for (const auto& map : records) {
    maps.push_back({map.container_id(), map.host_id(), map.size()});
  }
  return maps;
}

void SpecToRecord(const PodSpec& spec, state::v1::PodRecord* record) {
  record->set_name_key(spec.name_key);
  record->set_name(spec.name);
  record->set_name_space(spec.name_space);
  record->set_uid(spec.uid);
  record->set_hostname(spec.hostname);
  record->set_cgroup_parent(spec.cgroup_parent);
  record->set_network_mode(static_cast<uint32_t>(spec.network));
  record->set_ipc_mode(static_cast<uint32_t>(spec.ipc));
  record->set_pid_mode(static_cast<uint32_t>(spec.pid));
  record->mutable_sysctls()->clear();
  for (const auto& [key, value] : spec.sysctls) (*record->mutable_sysctls())[key] = value;
  record->set_has_dns(spec.dns.has_value());
  const DnsConfig dns = spec.dns.value_or(DnsConfig());
  Append(dns.servers, record->mutable_dns_servers());
  Append(dns.searches, record->mutable_dns_searches());
  Append(dns.options, record->mutable_dns_options());
  record->clear_port_mappings();
  for (const PortMapping& mapping : spec.port_mappings) {
    auto* port = record->add_port_mappings();
    port->set_protocol(mapping.protocol);
    port->set_container_port(mapping.container_port);
    port->set_host_port(mapping.host_port);
    port->set_host_ip(mapping.host_ip);
  }
  record->mutable_annotations()->clear();
  for (const auto& [key, value] : spec.annotations) (*record->mutable_annotations())[key] = value;
  record->set_runtime_handler(spec.runtime_handler);
  record->set_metadata(SerializeMetadata(spec.metadata));
  SetMaps(spec.uid_mappings, record->mutable_uid_mappings());
  SetMaps(spec.gid_mappings, record->mutable_gid_mappings());
}

PodSpec SpecFromRecord(const state::v1::PodRecord& record) {
  PodSpec spec;
  spec.name_key = record.name_key();
  spec.name = record.name();
  spec.name_space = record.name_space();
  spec.uid = record.uid();
  spec.hostname = record.hostname();
  spec.cgroup_parent = record.cgroup_parent();
  spec.network = ToMode(record.network_mode());
  spec.ipc = ToMode(record.ipc_mode());
  spec.pid = ToMode(record.pid_mode());
  spec.sysctls = {record.sysctls().begin(), record.sysctls().end()};
  if (record.has_dns()) {
    spec.dns.emplace();
    spec.dns->servers = {record.dns_servers().begin(), record.dns_servers().end()};
    spec.dns->searches = {record.dns_searches().begin(), record.dns_searches().end()};
    spec.dns->options = {record.dns_options().begin(), record.dns_options().end()};
  }
  for (const auto& port : record.port_mappings()) {
    spec.port_mappings.push_back(
        {port.protocol(), port.container_port(), port.host_port(), port.host_ip()});
  }
  spec.annotations = {record.annotations().begin(), record.annotations().end()};
  spec.runtime_handler = record.runtime_handler();
  spec.uid_mappings = MapsFrom(record.uid_mappings());
  spec.gid_mappings = MapsFrom(record.gid_mappings());
  return spec;
}

}  // namespace

std::string SerializeMetadata(const MetadataPtr& metadata) {
  return metadata == nullptr ? std::string() : metadata->Serialize();
}

void ToRecord(const PodView& view, state::v1::PodRecord* record) {
  record->set_id(view.id);
  record->set_created_at(view.created_at);
  record->set_ready(view.state == PodState::kReady);
  record->set_reason(view.reason);
  SpecToRecord(view.spec, record);
  record->set_cgroup_path(view.cgroup_path);
  record->set_supervisor_pid(view.pid);
  record->set_netns_path(view.netns_path);
  Append(view.ips, record->mutable_ips());
  record->set_cni_result(view.cni_result);
}

absl::StatusOr<PodView> FromRecord(const state::v1::PodRecord& record, const std::string& directory,
                                   const MetadataCodec& codec) {
  PodView view;
  view.id = record.id();
  view.state = record.ready() ? PodState::kReady : PodState::kNotReady;
  view.reason = record.reason();
  view.created_at = record.created_at();
  view.ips = {record.ips().begin(), record.ips().end()};
  view.netns_path = record.netns_path();
  view.cgroup_path = record.cgroup_path();
  view.cni_result = record.cni_result();
  view.pid = record.supervisor_pid();
  view.runtime_handler = record.runtime_handler();
  view.hostname_path = absl::StrCat(directory, "/", kHostnameFile);
  view.hosts_path = absl::StrCat(directory, "/", kHostsFile);
  view.resolv_conf_path = absl::StrCat(directory, "/", kResolvConfFile);
  view.spec = SpecFromRecord(record);
  if (!record.metadata().empty() && codec.parse_pod) {
    auto metadata = codec.parse_pod(record.metadata());
    if (!metadata.ok()) {
      return sys::Annotate(metadata.status(), absl::StrCat("metadata of pod ", record.id()));
    }
    view.metadata = *metadata;
  }
  view.spec.metadata = view.metadata;
  return view;
}

void ToRecord(const ContainerView& view, const ContainerSpec& spec,
              state::v1::ContainerRecord* record) {
  record->set_id(view.id);
  record->set_pod_id(view.pod_id);
  record->set_created_at(view.created_at);
  record->set_name_key(spec.name_key);
  record->set_image_id(view.image_id);
  record->set_pid_mode(static_cast<uint32_t>(spec.pid));
  record->set_pid_target(spec.pid_target);
  record->set_log_path(view.log_path);
  record->set_stdin(spec.stdin);
  record->set_stdin_once(spec.stdin_once);
  record->set_tty(spec.tty);
  record->set_stop_signal(view.stop_signal);
  record->set_metadata(SerializeMetadata(view.metadata));
  record->set_cgroup_path(view.cgroup_path);
}

absl::StatusOr<ContainerView> FromRecord(const state::v1::ContainerRecord& record,
                                         const std::string& directory,
                                         const std::string& layer_directory,
                                         const MetadataCodec& codec) {
  ContainerView view;
  view.id = record.id();
  view.pod_id = record.pod_id();
  view.image_id = record.image_id();
  view.created_at = record.created_at();
  view.log_path = record.log_path();
  view.bundle_dir = directory;
  view.cgroup_path = record.cgroup_path();
  view.upper_dir = absl::StrCat(layer_directory, "/upper");
  view.stop_signal = record.stop_signal();
  if (record.ended()) {
    view.state = ContainerState::kExited;
    view.exit_code = record.exit_code();
    view.started_at = record.started_at();
    view.finished_at = record.finished_at();
    view.reason = record.reason();
    view.message = record.message();
  }
  if (!record.metadata().empty() && codec.parse_container) {
    auto metadata = codec.parse_container(record.metadata());
    if (!metadata.ok()) {
      return sys::Annotate(metadata.status(), absl::StrCat("metadata of container ", record.id()));
    }
    view.metadata = *metadata;
  }
  return view;
}

}  // namespace davit::sandbox
