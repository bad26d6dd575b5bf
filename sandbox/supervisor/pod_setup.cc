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

#include "absl/cleanup/cleanup.h"
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

absl::StatusOr<PodContext> SetUpPod(const PodConfig& config, int init_program) {
  DAVIT_RETURN_IF_ERROR(AdjustOomScore(config.oom_score_adj()));
  DAVIT_ASSIGN_OR_RETURN(PodContext pod, MakeNamespaces(config));
  if (config.new_network_namespace()) DAVIT_RETURN_IF_ERROR(BringLoopbackUp());
  DAVIT_RETURN_IF_ERROR(WriteSysctls(config));
  if (config.new_uts_namespace() && !config.hostname().empty() &&
      sethostname(config.hostname().data(), config.hostname().size()) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("set the hostname ", config.hostname()));
  }
  const bool bind = config.new_network_namespace() && !config.netns_path().empty();
  if (bind) DAVIT_RETURN_IF_ERROR(BindNetns(config.netns_path()));
  auto unbind = absl::MakeCleanup([&] {
    if (bind) RemoveNetnsBinding(config.netns_path()).IgnoreError();
  });
  if (config.shared_pid_namespace()) {
    DAVIT_ASSIGN_OR_RETURN(
        PodInit init, StartPodInit(init_program, pod.user_namespace.get(), config.init_cgroup()));
    pod.init_pid = init.pid;
    pod.init_pidfd = std::move(init.pidfd);
  }
  std::move(unbind).Cancel();
  return pod;
}

}  // namespace davit::sandbox
