#include "cri/devices.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/cgroup/resources.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

using runtime::spec::Device;

constexpr size_t kMaxDevices = 4096;
constexpr int kMaxDepth = 8;

bool IsDevice(const struct stat& st) { return S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode); }

Device ToDevice(const std::string& path, const struct stat& st) {
  Device device;
  device.path = path;
  device.type.assign(1, S_ISBLK(st.st_mode) ? 'b' : 'c');
  device.major = major(st.st_rdev);
  device.minor = minor(st.st_rdev);
  device.file_mode = st.st_mode & 07777;
  device.uid = st.st_uid;
  device.gid = st.st_gid;
  return device;
}

// A container's own file systems live there, and console is its pty.
bool IsOwnName(absl::string_view name) {
  for (const char* own : {"pts", "shm", "fd", "mqueue", "console", ".lxc", ".udev"}) {
    if (name == own) return true;
  }
  return false;
}

absl::Status Walk(const std::string& host, const std::string& container, int depth,
                  std::vector<Device>* devices) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(host.c_str()), ::closedir);
  if (dir == nullptr) return sys::ErrnoStatus(errno, absl::StrCat("open directory ", host));
  while (const dirent* entry = ::readdir(dir.get())) {
    const absl::string_view name = entry->d_name;
    if (name == "." || name == ".." || (depth == 0 && IsOwnName(name))) continue;
    struct stat st;
    // A node that is unplugged meanwhile is no error, and links are left out: udev's by-id and
    // by-path names would only show the same node again.
    if (::fstatat(::dirfd(dir.get()), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
    const std::string inside = absl::StrCat(container, "/", name);
    if (S_ISDIR(st.st_mode) && depth < kMaxDepth) {
      DAVIT_RETURN_IF_ERROR(Walk(absl::StrCat(host, "/", name), inside, depth + 1, devices));
    } else if (IsDevice(st)) {
      if (devices->size() >= kMaxDevices) {
        return absl::InvalidArgumentError(
            absl::StrCat("more than ", kMaxDevices, " devices in ", host));
      }
      devices->push_back(ToDevice(inside, st));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const DeviceRequest& request, const std::string& inside) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("device ", absl::string_view(request.host_path).substr(0, 256), ": ", why));
  };
  for (const std::string* path : {&request.host_path, &inside}) {
    if (!absl::StartsWith(*path, "/") || absl::StrContains(*path, "/../") ||
        absl::EndsWith(*path, "/..") || path->find('\0') != std::string::npos) {
      return bad("paths must be absolute and without \"..\"");
    }
  }
  for (const char c : request.permissions) {
    if (c != 'r' && c != 'w' && c != 'm') {
      return bad(absl::StrCat("permissions \"", request.permissions.substr(0, 16),
                              "\" are none of the letters r, w and m"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Device>> Resolve(const DeviceRequest& request,
                                            const std::string& inside) {
  struct stat st;
  if (::stat(request.host_path.c_str(), &st) != 0) {
    const int error = errno;
    return absl::InvalidArgumentError(
        sys::ErrnoStatus(error, absl::StrCat("device ", request.host_path)).message());
  }
  if (S_ISDIR(st.st_mode)) return ListDevices(request.host_path, inside);
  if (!IsDevice(st)) {
    return absl::InvalidArgumentError(
        absl::StrCat("device ", request.host_path, " is no device node"));
  }
  return std::vector<Device>{ToDevice(inside, st)};
}

// Later nodes at one path replace earlier ones.
void Add(Device device, std::vector<Device>* nodes) {
  std::erase_if(*nodes, [&](const Device& old) { return old.path == device.path; });
  nodes->push_back(std::move(device));
}

}  // namespace

absl::StatusOr<std::vector<Device>> ListDevices(const std::string& host_dir,
                                                const std::string& container_dir) {
  std::vector<Device> devices;
  DAVIT_RETURN_IF_ERROR(Walk(host_dir, container_dir, 0, &devices));
  std::sort(devices.begin(), devices.end(),
            [](const Device& a, const Device& b) { return a.path < b.path; });
  return devices;
}

absl::StatusOr<DeviceSet> BuildDevices(const std::vector<DeviceRequest>& requests,
                                       bool privileged) {
  DeviceSet set;
  if (privileged) {
    DAVIT_ASSIGN_OR_RETURN(set.nodes, ListDevices("/dev", "/dev"));
    set.rules.push_back({true, "a", std::nullopt, std::nullopt, "rwm"});
  } else {
    set.rules.push_back({false, "a", std::nullopt, std::nullopt, "rwm"});
    for (auto& rule : runtime::cgroup::DefaultDeviceRules()) set.rules.push_back(std::move(rule));
  }
  for (const DeviceRequest& request : requests) {
    const std::string inside =
        request.container_path.empty() ? request.host_path : request.container_path;
    DAVIT_RETURN_IF_ERROR(CheckRequest(request, inside));
    DAVIT_ASSIGN_OR_RETURN(std::vector<Device> devices, Resolve(request, inside));
    for (Device& device : devices) {
      if (!privileged) {
        set.rules.push_back({true, device.type, device.major, device.minor,
                             request.permissions.empty() ? "rwm" : request.permissions});
      }
      Add(std::move(device), &set.nodes);
    }
  }
  return set;
}

}  // namespace davit::cri
