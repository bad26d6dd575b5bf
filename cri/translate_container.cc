#include "cri/translate_container.h"

#include <limits.h>
#include <signal.h>

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cri/capabilities.h"
#include "cri/devices.h"
#include "cri/metadata.h"
#include "cri/mounts.h"
#include "cri/nul_bytes.h"
#include "cri/process.h"
#include "cri/resources.h"
#include "cri/security.h"
#include "cri/signals.h"
#include "cri/translate_pod.h"
#include "cri/user_namespace.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using sandbox::NamespaceMode;

constexpr size_t kMaxName = 1024;

absl::Status Invalid(absl::string_view field, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", why));
}

template <typename Repeated>
std::vector<std::string> Strings(const Repeated& values) {
  return {values.begin(), values.end()};
}

const v1::LinuxContainerSecurityContext& Security(const v1::ContainerConfig& config) {
  return config.linux().security_context();
}

ProcessRequest RequestedProcess(const v1::ContainerConfig& config, const ContainerInputs& in) {
  ProcessRequest request;
  request.command = Strings(config.command());
  request.args = Strings(config.args());
  request.working_dir = config.working_dir();
  for (const v1::KeyValue& env : config.envs()) request.envs.emplace_back(env.key(), env.value());
  request.tty = config.tty();
  request.hostname =
      in.pod_config->hostname().empty() ? in.node->hostname : in.pod_config->hostname();
  request.home = in.user.home;
  return request;
}

absl::StatusOr<ProfileRequest> FromProfile(const v1::SecurityProfile& profile) {
  switch (profile.profile_type()) {
    case v1::SecurityProfile::RuntimeDefault:
      return ProfileRequest{ProfileRequest::Kind::kRuntimeDefault, ""};
    case v1::SecurityProfile::Unconfined:
      return ProfileRequest{};
    case v1::SecurityProfile::Localhost:
      return ProfileRequest{ProfileRequest::Kind::kLocalhost, profile.localhost_ref()};
    default:
      return Invalid("security profile", "unknown type");
  }
}

// The typed fields win over the deprecated ones.
absl::StatusOr<ProfileRequest> SeccompRequest(const v1::LinuxContainerSecurityContext& security) {
  if (security.has_seccomp()) return FromProfile(security.seccomp());
  return ParseProfileName(security.seccomp_profile_path());
}

absl::StatusOr<std::optional<ProfileRequest>> AppArmorRequest(
    const v1::LinuxContainerSecurityContext& security) {
  std::optional<ProfileRequest> request;
  if (security.has_apparmor()) {
    DAVIT_ASSIGN_OR_RETURN(request, FromProfile(security.apparmor()));
  } else if (!security.apparmor_profile().empty()) {
    DAVIT_ASSIGN_OR_RETURN(request, ParseProfileName(security.apparmor_profile()));
  }
  return request;
}

// Confinement that was asked for and cannot be given is an error. Where SELinux is off, the request
// means nothing, as everywhere.
absl::Status CheckSelinux(const v1::SELinuxOption& options, bool kernel_has_selinux) {
  const bool asked = !options.user().empty() || !options.role().empty() ||
                     !options.type().empty() || !options.level().empty();
  if (!asked || !kernel_has_selinux) return absl::OkStatus();
  return absl::UnimplementedError("selinux_options are not implemented, and SELinux is on");
}

absl::Status TranslateProcess(const v1::ContainerConfig& config, const ContainerInputs& in,
                              uint64_t* capabilities, runtime::spec::Process* process) {
  const v1::LinuxContainerSecurityContext& security = Security(config);
  const ProcessRequest request = RequestedProcess(config, in);
  DAVIT_ASSIGN_OR_RETURN(process->args, BuildArgs(request, in.image->config));
  DAVIT_ASSIGN_OR_RETURN(process->env, BuildEnvironment(request, in.image->config));
  DAVIT_ASSIGN_OR_RETURN(process->cwd, ChooseWorkingDir(request, in.image->config));
  process->terminal = config.tty();
  process->user.uid = in.user.uid;
  process->user.gid = in.user.gid;
  process->user.additional_gids = in.user.groups;
  const v1::Capability& caps = security.capabilities();
  DAVIT_ASSIGN_OR_RETURN(
      process->capabilities,
      BuildCapabilities({Strings(caps.add_capabilities()), Strings(caps.drop_capabilities()),
                         Strings(caps.add_ambient_capabilities()), security.privileged()},
                        in.node->capabilities, capabilities));
  process->no_new_privileges = security.no_new_privs();
  DAVIT_RETURN_IF_ERROR(CheckSelinux(security.selinux_options(), in.node->features.selinux));
  DAVIT_ASSIGN_OR_RETURN(const std::optional<ProfileRequest> apparmor, AppArmorRequest(security));
  DAVIT_ASSIGN_OR_RETURN(process->apparmor_profile, ChooseAppArmor(apparmor, security.privileged(),
                                                                   in.node->features.apparmor));
  DAVIT_ASSIGN_OR_RETURN(process->oom_score_adj,
                         TranslateOomScoreAdj(config.linux().resources().oom_score_adj(),
                                              in.node->oom_score_adj_floor));
  return absl::OkStatus();
}

absl::Status TranslateProtectedPaths(const v1::LinuxContainerSecurityContext& security,
                                     runtime::spec::Linux* linux_) {
  // A privileged container sees everything. For others the lists are what the kubelet computed from
  // procMount: empty means unmasked, so no defaults are put in.
  if (security.privileged()) return absl::OkStatus();
  for (const std::string& path : security.masked_paths()) {
    DAVIT_RETURN_IF_ERROR(CheckProtectedPath(path));
    linux_->masked_paths.push_back(path);
  }
  for (const std::string& path : security.readonly_paths()) {
    DAVIT_RETURN_IF_ERROR(CheckProtectedPath(path));
    linux_->readonly_paths.push_back(path);
  }
  return absl::OkStatus();
}

absl::Status TranslateLinux(const v1::ContainerConfig& config, const ContainerInputs& in,
                            uint64_t capabilities, runtime::spec::Linux* linux_) {
  const v1::LinuxContainerSecurityContext& security = Security(config);
  linux_->namespaces.push_back({runtime::spec::NamespaceType::kMount, ""});
  // A privileged container manages the node's groups and must see their true names.
  if (!security.privileged() && in.node->features.cgroup_namespaces) {
    linux_->namespaces.push_back({runtime::spec::NamespaceType::kCgroup, ""});
  }
  DAVIT_ASSIGN_OR_RETURN(linux_->resources, TranslateResources(config.linux().resources()));
  std::vector<DeviceRequest> devices;
  for (const v1::Device& device : config.devices()) {
    devices.push_back({device.container_path(), device.host_path(), device.permissions()});
  }
  DAVIT_ASSIGN_OR_RETURN(DeviceSet set, BuildDevices(devices, security.privileged()));
  linux_->devices = std::move(set.nodes);
  linux_->resources->devices = std::move(set.rules);
  DAVIT_ASSIGN_OR_RETURN(const ProfileRequest seccomp, SeccompRequest(security));
  DAVIT_ASSIGN_OR_RETURN(linux_->seccomp,
                         BuildSeccomp(seccomp, security.privileged(), capabilities));
  return TranslateProtectedPaths(security, linux_);
}

absl::StatusOr<std::vector<runtime::spec::Mount>> TranslateMounts(const v1::ContainerConfig& config,
                                                                  const ContainerInputs& in) {
  MountInputs mounts;
  mounts.privileged = Security(config).privileged();
  mounts.readonly_rootfs = Security(config).readonly_rootfs();
  mounts.host_ipc = in.pod->spec.ipc == NamespaceMode::kNode;
  mounts.recursive_read_only = in.node->features.mount_setattr;
  mounts.hostname_path = in.pod->hostname_path;
  mounts.hosts_path = in.pod->hosts_path;
  mounts.resolv_conf_path = in.pod->resolv_conf_path;
  // A volume is a directory that can be written; the writable layer is one unless it is read-only.
  mounts.user_namespace = !in.pod->spec.uid_mappings.empty();
  mounts.volumes = mounts.readonly_rootfs ? in.image->config.volumes : in.missing_volumes;
  std::erase_if(mounts.volumes, [](const std::string& volume) {
    return CleanPath(volume) == "/" || volume.size() >= PATH_MAX ||
           volume.find('\0') != std::string::npos;
  });
  return BuildMounts(config.mounts(), mounts);
}

// The annotations that OCI wrappers and hooks of other runtimes' users look for.
std::map<std::string, std::string> Annotations(const v1::ContainerConfig& config,
                                               const ContainerInputs& in) {
  const v1::PodSandboxMetadata& pod = in.pod_config->metadata();
  const v1::ImageSpec& image = config.image();
  return {
      {"io.kubernetes.cri.container-type", "container"},
      {"io.kubernetes.cri.container-name", config.metadata().name()},
      {"io.kubernetes.cri.image-name",
       image.user_specified_image().empty() ? image.image() : image.user_specified_image()},
      {"io.kubernetes.cri.sandbox-id", in.pod->id},
      {"io.kubernetes.cri.sandbox-name", pod.name()},
      {"io.kubernetes.cri.sandbox-namespace", pod.namespace_()},
      {"io.kubernetes.cri.sandbox-uid", pod.uid()},
  };
}

absl::Status TranslatePidMode(const v1::ContainerConfig& config, const ContainerInputs& in,
                              sandbox::ContainerSpec* spec) {
  const v1::NamespaceOption& options = Security(config).namespace_options();
  DAVIT_RETURN_IF_ERROR(CheckContainerUserNamespace(
      options, in.pod_config->linux().security_context().namespace_options()));
  spec->pid = in.pod->spec.pid;  // mode POD is whatever the pod has
  switch (options.pid()) {
    case v1::POD:
      return absl::OkStatus();
    case v1::CONTAINER:
      spec->pid = NamespaceMode::kContainer;
      return absl::OkStatus();
    case v1::NODE:
      spec->pid = NamespaceMode::kNode;
      return absl::OkStatus();
    case v1::TARGET: {
      spec->pid = NamespaceMode::kTarget;
      DAVIT_ASSIGN_OR_RETURN(spec->pid_target, in.find_target(options.target_id()));
      return absl::OkStatus();
    }
    default:
      return Invalid("namespace_options.pid",
                     absl::StrCat("unknown mode ", static_cast<int>(options.pid())));
  }
}

// CRI > image > SIGTERM. An image's nonsense is not worth refusing to run it.
int ChooseStopSignal(const v1::ContainerConfig& config, const images::ImageConfig& image) {
  if (const std::optional<int> signal = SignalFromCri(config.stop_signal())) return *signal;
  const absl::StatusOr<int> signal = ParseSignal(image.stop_signal);
  return signal.ok() ? *signal : SIGTERM;
}

}  // namespace

absl::Status CheckContainer(const v1::ContainerConfig& config) {
  DAVIT_RETURN_IF_ERROR(CheckNoNulBytes(config, "config"));
  if (!config.has_metadata()) return Invalid("config.metadata", "is missing");
  const std::string& name = config.metadata().name();
  if (name.empty()) return Invalid("config.metadata.name", "is missing");
  if (name.size() > kMaxName) return Invalid("config.metadata.name", "is too long");
  if (config.image().image().empty()) return Invalid("config.image.image", "is missing");
  const std::string log = absl::StrCat("/", config.log_path(), "/");
  if (absl::StrContains(log, "/../") || log.size() >= PATH_MAX) {
    return Invalid("config.log_path", "must stay in the pod's log directory");
  }
  if (!config.cdi_devices().empty()) {
    return absl::UnimplementedError("config.CDI_devices are not implemented");
  }
  return absl::OkStatus();
}

UserRequest RequestedUser(const v1::ContainerConfig& config, const images::ImageConfig& image) {
  const v1::LinuxContainerSecurityContext& security = Security(config);
  UserRequest request;
  if (security.has_run_as_user()) request.run_as_user = security.run_as_user().value();
  if (security.has_run_as_group()) request.run_as_group = security.run_as_group().value();
  request.run_as_username = security.run_as_username();
  request.image_user = image.user;
  request.supplemental_groups = {security.supplemental_groups().begin(),
                                 security.supplemental_groups().end()};
  request.strict_groups = security.supplemental_groups_policy() == v1::Strict;
  return request;
}

absl::StatusOr<sandbox::ContainerSpec> TranslateContainer(const v1::ContainerConfig& config,
                                                          const ContainerInputs& in) {
  const v1::LinuxContainerSecurityContext& security = Security(config);
  if (security.privileged() && !in.pod_config->linux().security_context().privileged()) {
    return Invalid("config.linux.security_context.privileged",
                   "a privileged container needs a privileged pod");
  }
  sandbox::ContainerSpec spec;
  spec.name_key = absl::StrCat(config.metadata().name(), "_", in.pod_config->metadata().name(), "_",
                               in.pod_config->metadata().namespace_(), "_",
                               in.pod_config->metadata().uid(), "_", config.metadata().attempt());
  spec.pod_id = in.pod->id;
  spec.image_id = in.image->id;
  DAVIT_RETURN_IF_ERROR(TranslatePidMode(config, in, &spec));
  uint64_t capabilities = 0;
  spec.spec.process.emplace();
  DAVIT_RETURN_IF_ERROR(TranslateProcess(config, in, &capabilities, &*spec.spec.process));
  DAVIT_RETURN_IF_ERROR(TranslateLinux(config, in, capabilities, &spec.spec.linux_));
  DAVIT_ASSIGN_OR_RETURN(spec.spec.mounts, TranslateMounts(config, in));
  spec.spec.root.path = "rootfs";
  spec.spec.root.readonly = security.readonly_rootfs();
  spec.spec.annotations = Annotations(config, in);
  if (!in.pod_config->log_directory().empty() && !config.log_path().empty()) {
    spec.log_path = absl::StrCat(in.pod_config->log_directory(), "/", config.log_path());
  }
  spec.stdin = config.stdin();
  spec.stdin_once = config.stdin_once();
  spec.tty = config.tty();
  spec.stop_signal = ChooseStopSignal(config, in.image->config);

  // Status shows what the container got, not what could not be given.
  v1::ContainerConfig stored = config;
  if (stored.linux().has_resources()) {
    stored.mutable_linux()->mutable_resources()->set_oom_score_adj(
        *spec.spec.process->oom_score_adj);
  }
  spec.metadata = std::make_shared<const ContainerMetadata>(
      std::move(stored),
      ContainerMetadata::User{
          in.user.uid, in.user.gid, {in.user.groups.begin(), in.user.groups.end()}});
  return spec;
}

}  // namespace davit::cri
