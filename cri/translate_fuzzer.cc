// Any protobuf as the pod ('p' in front) or the container ('c') of a request: translated as
// RunPodSandbox and CreateContainer do it, on a node with everything.

#include "cri/metadata.h"
#include "cri/translate_container.h"
#include "cri/translate_pod.h"
#include "proto/api.pb.h"
#include "runtime/spec/parse.h"
#include "runtime/spec/serialize.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {
namespace {

namespace v1 = ::runtime::v1;

v1::PodSandboxConfig PodConfig() {
  v1::PodSandboxConfig config;
  config.mutable_metadata()->set_name("web");
  config.mutable_metadata()->set_namespace_("prod");
  config.mutable_metadata()->set_uid("u1");
  config.set_hostname("web-0");
  config.set_log_directory("/var/log/pods/web");
  config.mutable_dns_config()->add_servers("10.0.0.10");
  config.mutable_dns_config()->add_searches("prod.svc.cluster.local");
  config.mutable_dns_config()->add_options("ndots:5");
  v1::PortMapping* port = config.add_port_mappings();
  port->set_container_port(80);
  port->set_host_port(8080);
  port->set_host_ip("127.0.0.1");
  (*config.mutable_annotations())["a"] = "b";
  v1::LinuxPodSandboxConfig* node = config.mutable_linux();
  node->set_cgroup_parent("/kubepods/pod1");
  (*node->mutable_sysctls())["net.ipv4.ip_forward"] = "1";
  v1::LinuxSandboxSecurityContext* security = node->mutable_security_context();
  security->set_privileged(true);
  security->mutable_namespace_options()->set_pid(v1::CONTAINER);
  security->mutable_run_as_user()->set_value(1000);
  security->add_supplemental_groups(5);
  return config;
}

v1::ContainerConfig ContainerConfig() {
  v1::ContainerConfig config;
  config.mutable_metadata()->set_name("app");
  config.mutable_image()->set_image("example/app:1");
  config.set_log_path("app/0.log");
  config.add_command("/entry");
  config.add_args("serve");
  config.set_working_dir("/w");
  v1::KeyValue* env = config.add_envs();
  env->set_key("A");
  env->set_value("b");
  v1::Mount* mount = config.add_mounts();
  mount->set_container_path("/data");
  mount->set_host_path("/tmp");
  mount->set_readonly(true);
  mount->set_propagation(v1::PROPAGATION_HOST_TO_CONTAINER);
  v1::Device* device = config.add_devices();
  device->set_container_path("/dev/null2");
  device->set_host_path("/dev/null");
  device->set_permissions("rwm");
  v1::LinuxContainerResources* resources = config.mutable_linux()->mutable_resources();
  resources->set_cpu_period(100000);
  resources->set_cpu_quota(50000);
  resources->set_cpu_shares(512);
  resources->set_memory_limit_in_bytes(1 << 20);
  resources->set_oom_score_adj(-5);
  resources->set_cpuset_cpus("0-1");
  resources->add_hugepage_limits()->set_page_size("2MB");
  (*resources->mutable_unified())["memory.high"] = "1";
  v1::LinuxContainerSecurityContext* security = config.mutable_linux()->mutable_security_context();
  security->mutable_capabilities()->add_add_capabilities("NET_ADMIN");
  security->mutable_capabilities()->add_drop_capabilities("ALL");
  security->mutable_capabilities()->add_add_ambient_capabilities("KILL");
  security->mutable_namespace_options()->set_pid(v1::TARGET);
  security->mutable_namespace_options()->set_target_id("t");
  security->mutable_run_as_user()->set_value(1000);
  security->add_masked_paths("/proc/kcore");
  security->add_readonly_paths("/proc/sys");
  security->mutable_seccomp()->set_profile_type(v1::SecurityProfile::RuntimeDefault);
  security->set_no_new_privs(true);
  return config;
}

void CheckPod(const v1::PodSandboxConfig& config) {
  const auto spec = cri::TranslatePod(config, "", cri::PodOptions());
  if (!spec.ok()) return;
  DAVIT_FUZZ_CHECK(!spec->name_key.empty());
  const auto metadata = cri::PodMetadata::Parse(cri::PodMetadata(config).Serialize());
  DAVIT_FUZZ_CHECK(metadata.ok());
}

// Nothing of the machine that runs this is read: such requests are left to the unit tests.
bool ReadsFiles(const v1::ContainerConfig& config) {
  const auto& security = config.linux().security_context();
  return config.devices_size() > 1 || security.privileged() ||
         security.seccomp().profile_type() == v1::SecurityProfile::Localhost ||
         !security.seccomp_profile_path().empty();
}

void CheckContainer(const v1::ContainerConfig& config) {
  if (!cri::CheckContainer(config).ok() || ReadsFiles(config)) return;
  static const v1::PodSandboxConfig pod_config = PodConfig();
  sandbox::PodView pod;
  pod.id = "pod1";
  pod.hosts_path = "/run/davit/pods/pod1/hosts";
  images::Image image;
  image.id = "sha256:abc";
  image.config.entrypoint = {"/entry"};
  image.config.env = {"PATH=/bin"};
  image.config.stop_signal = "SIGQUIT";
  cri::Node node;
  node.capabilities = (uint64_t{1} << 41) - 1;
  node.features.cgroup_namespaces = true;
  node.features.mount_setattr = true;
  cri::ContainerInputs inputs;
  inputs.pod = &pod;
  inputs.pod_config = &pod_config;
  inputs.image = &image;
  inputs.node = &node;
  const auto user = cri::ResolveUser(cri::RequestedUser(config, image.config), "", "");
  if (user.ok()) inputs.user = *user;
  inputs.missing_volumes = {"/v"};
  inputs.find_target = [](const std::string& id) -> absl::StatusOr<std::string> { return id; };
  const auto spec = cri::TranslateContainer(config, inputs);
  if (!spec.ok()) return;
  DAVIT_FUZZ_CHECK(!spec->name_key.empty());
  // The config.json that is written for people and tools is one that the strict parser takes.
  const std::string json = runtime::spec::SerializeSpec(spec->spec);
  const auto parsed = runtime::spec::ParseSpec(json);
  if (!parsed.ok()) fprintf(stderr, "%s\n%s\n", parsed.status().ToString().c_str(), json.c_str());
  DAVIT_FUZZ_CHECK(parsed.ok());
  DAVIT_FUZZ_CHECK(runtime::spec::SerializeSpec(*parsed) == json);
}

}  // namespace

std::vector<std::string> Seeds() {
  v1::ContainerConfig plain;
  plain.mutable_metadata()->set_name("app");
  plain.mutable_image()->set_image("i");
  return {"p" + PodConfig().SerializeAsString(), "c" + ContainerConfig().SerializeAsString(),
          "c" + plain.SerializeAsString()};
}

void Translate(char what, const uint8_t* data, size_t size) {
  if (what == 'p') {
    v1::PodSandboxConfig config;
    if (config.ParseFromArray(data, static_cast<int>(size))) CheckPod(config);
  } else {
    v1::ContainerConfig config;
    if (config.ParseFromArray(data, static_cast<int>(size))) CheckContainer(config);
  }
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 0) davit::fuzzing::Translate(static_cast<char>(data[0]), data + 1, size - 1);
  return 0;
}
