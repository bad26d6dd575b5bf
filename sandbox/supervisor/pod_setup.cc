#include "sandbox/supervisor/pod_setup.h"

#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/stage/namespaces.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/supervisor/pod_init.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::PodConfig;

template <typename Maps>
std::string MapText(const Maps& maps) {
  std::string text;
  for (const auto& map : maps) {
    absl::StrAppend(&text, map.container_id(), " ", map.host_id(), " ", map.size(), "\n");
  }
  return text;
}

absl::Status Enter(const sys::UniqueFd& ns, int type, absl::string_view name) {
  if (!ns.ok() || setns(ns.get(), type) == 0) return absl::OkStatus();
  return sys::ErrnoStatus(errno, absl::StrCat("enter the pod's ", name, " namespace"));
}

absl::StatusOr<PodContext> MakeNamespaces(const PodConfig& config) {
  runtime::stage::PodNamespaceOptions options;
  if (config.shm_size() > 0) options.shm_size = static_cast<uint64_t>(config.shm_size());
  options.uid_map = MapText(config.uid_maps());
  options.gid_map = MapText(config.gid_maps());
  if (!options.uid_map.empty()) {
    // They have to belong to the user namespace, so its helper makes them and we join.
    options.network = config.new_network_namespace();
    options.ipc = config.new_ipc_namespace();
    options.uts = config.new_uts_namespace();
  } else {
    const int flags = (config.new_network_namespace() ? CLONE_NEWNET : 0) |
                      (config.new_ipc_namespace() ? CLONE_NEWIPC : 0) |
                      (config.new_uts_namespace() ? CLONE_NEWUTS : 0);
    if (flags != 0 && unshare(flags) != 0) {
      return sys::ErrnoStatus(errno, "make the pod's namespaces");
    }
  }
  DAVIT_ASSIGN_OR_RETURN(auto namespaces, runtime::stage::CreatePodNamespaces(options));
  DAVIT_RETURN_IF_ERROR(Enter(namespaces.network, CLONE_NEWNET, "network"));
  DAVIT_RETURN_IF_ERROR(Enter(namespaces.ipc, CLONE_NEWIPC, "ipc"));
  DAVIT_RETURN_IF_ERROR(Enter(namespaces.uts, CLONE_NEWUTS, "uts"));
  PodContext pod;
  pod.mount_namespace = std::move(namespaces.mount);
  pod.user_namespace = std::move(namespaces.user);
  return pod;
}

absl::Status BringLoopbackUp() {
  const sys::UniqueFd socket_fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket_fd.ok()) return sys::ErrnoStatus(errno, "bring lo up: socket");
  ifreq request{};
  strncpy(request.ifr_name, "lo", sizeof request.ifr_name - 1);
  if (ioctl(socket_fd.get(), SIOCGIFFLAGS, &request) != 0) {
    return sys::ErrnoStatus(errno, "read the flags of lo");
  }
  request.ifr_flags |= IFF_UP;
  if (ioctl(socket_fd.get(), SIOCSIFFLAGS, &request) != 0) {
    return sys::ErrnoStatus(errno, "bring lo up");
  }
  return absl::OkStatus();
}

absl::Status BindNetns(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (path.empty() || path[0] != '/' || slash + 1 == path.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("bind the network namespace at \"", path, "\": not an absolute file name"));
  }
  if (slash > 0) DAVIT_RETURN_IF_ERROR(sys::MakeDirs(path.substr(0, slash), 0755));
  auto file = sys::OpenAt(AT_FDCWD, path, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0444);
  if (!file.ok()) return file.status();
  if (mount("/proc/thread-self/ns/net", path.c_str(), nullptr, MS_BIND, nullptr) != 0) {
    const int error = errno;
    unlink(path.c_str());
    return sys::ErrnoStatus(error, absl::StrCat("bind the network namespace at ", path));
  }
  return absl::OkStatus();
}

absl::Status WriteSysctls(const PodConfig& config) {
  for (const auto& [name, value] : config.sysctls()) {
    auto path = SysctlPath(name);
    if (!path.ok()) return path.status();
    const absl::Status written =
        sys::WriteExistingAt(AT_FDCWD, absl::StrCat("/proc/sys/", *path), value);
    if (!written.ok()) return sys::Annotate(written, absl::StrCat("sysctl ", name));
  }
  return absl::OkStatus();
}

// A value that is too low to be allowed (below the current one needs CAP_SYS_RESOURCE) leaves the
// process as it is: that is the clamp.
absl::Status AdjustOomScore(int wanted) {
  if (wanted == 0) return absl::OkStatus();
  constexpr char kFile[] = "/proc/self/oom_score_adj";
  const std::string value = absl::StrCat(std::clamp(wanted, -1000, 1000));
  absl::Status status = sys::WriteExistingAt(AT_FDCWD, kFile, value);
  if (absl::IsPermissionDenied(status)) return absl::OkStatus();
  return status;
}

}  // namespace

absl::StatusOr<std::string> SysctlPath(absl::string_view name) {
  std::string path(name);
  const size_t first = path.find_first_of("./");
  if (first != std::string::npos && path[first] == '.') {
    for (char& c : path) c = c == '.' ? '/' : c == '/' ? '.' : c;
  }
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == "..") {
      return absl::InvalidArgumentError(absl::StrCat("sysctl \"", name, "\": not a sysctl's name"));
    }
  }
  return path;
}

absl::Status RemoveNetnsBinding(const std::string& netns_path) {
  if (netns_path.empty()) return absl::OkStatus();
  if (umount2(netns_path.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW) != 0 && errno != EINVAL &&
      errno != ENOENT) {
    return sys::ErrnoStatus(errno, absl::StrCat("unmount ", netns_path));
  }
  if (unlink(netns_path.c_str()) != 0 && errno != ENOENT) {
    return sys::ErrnoStatus(errno, absl::StrCat("remove ", netns_path));
  }
  return absl::OkStatus();
}

namespace {

// The pod on its way. Its binding goes with it, unless the pod came to be.
class PodSetup {
 public:
  PodSetup(const PodConfig& config, int init_program)
      : config_(config), init_program_(init_program) {}
  ~PodSetup() {
    if (bound_) RemoveNetnsBinding(config_.netns_path()).IgnoreError();
  }

  static const sys::Operation<PodSetup>& Steps() {
    static const sys::Operation<PodSetup> steps(
        "set up pod", {{"adjust the OOM score", &PodSetup::AdjustScore},
                       {"make its namespaces", &PodSetup::MakeAll},
                       {"bring its loopback up", &PodSetup::Loopback},
                       {"write its sysctls", &PodSetup::Sysctls, sys::StepKind::kRequest},
                       {"set its hostname", &PodSetup::Hostname},
                       {"bind its network namespace", &PodSetup::Bind},
                       {"start its init", &PodSetup::StartInit}});
    return steps;
  }
  PodContext Take() {
    bound_ = false;
    return std::move(pod_);
  }

 private:
  absl::Status AdjustScore() { return AdjustOomScore(config_.oom_score_adj()); }
  absl::Status MakeAll() {
    DAVIT_ASSIGN_OR_RETURN(pod_, MakeNamespaces(config_));
    return absl::OkStatus();
  }
  absl::Status Loopback() {
    return config_.new_network_namespace() ? BringLoopbackUp() : absl::OkStatus();
  }
  absl::Status Sysctls() { return WriteSysctls(config_); }
  absl::Status Hostname() {
    const std::string& name = config_.hostname();
    if (!config_.new_uts_namespace() || name.empty()) return absl::OkStatus();
    if (sethostname(name.data(), name.size()) == 0) return absl::OkStatus();
    return sys::ErrnoStatus(errno, absl::StrCat("set the hostname ", name));
  }
  absl::Status Bind() {
    if (!config_.new_network_namespace() || config_.netns_path().empty()) return absl::OkStatus();
    DAVIT_RETURN_IF_ERROR(BindNetns(config_.netns_path()));
    bound_ = true;
    return absl::OkStatus();
  }
  absl::Status StartInit() {
    if (!config_.shared_pid_namespace()) return absl::OkStatus();
    DAVIT_ASSIGN_OR_RETURN(PodInit init, StartPodInit(init_program_, pod_.user_namespace.get(),
                                                      config_.init_cgroup()));
    pod_.init_pid = init.pid;
    pod_.init_pidfd = std::move(init.pidfd);
    return absl::OkStatus();
  }

  const PodConfig& config_;
  const int init_program_;
  PodContext pod_;
  bool bound_ = false;
};

}  // namespace

sys::OperationSteps PodSetupSteps() { return PodSetup::Steps().Names(); }

absl::StatusOr<PodContext> SetUpPod(const PodConfig& config, int init_program,
                                    sys::Faults* faults) {
  PodSetup setup(config, init_program);
  DAVIT_RETURN_IF_ERROR(PodSetup::Steps().Run(&setup, faults));
  return setup.Take();
}

}  // namespace davit::sandbox
