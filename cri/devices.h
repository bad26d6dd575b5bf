#ifndef DAVIT_CRI_DEVICES_H_
#define DAVIT_CRI_DEVICES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"

namespace davit::cri {

// CRI's Device message.
struct DeviceRequest {
  std::string container_path;  // "" = the host path
  std::string host_path;       // a device node, a link to one, or a directory of them
  std::string permissions;     // of "rwm"; "" = all
};

struct DeviceSet {
  std::vector<runtime::spec::Device> nodes;
  std::vector<runtime::spec::DeviceCgroupRule> rules;
};

// The device nodes and cgroup rules of a container: nothing but the default devices and what is
// asked for; everything, with every node of the host's /dev, for a privileged one. InvalidArgument:
// a host path that is not there or is no device, relative paths, bad permissions. Stats the host's
// files; thread-safe.
absl::StatusOr<DeviceSet> BuildDevices(const std::vector<DeviceRequest>& requests, bool privileged);

// The nodes beneath a directory of the host, with their paths moved from `host_dir` to
// `container_dir`. Skips what a container gets of its own: pts, shm, mqueue, fd, console.
absl::StatusOr<std::vector<runtime::spec::Device>> ListDevices(const std::string& host_dir,
                                                               const std::string& container_dir);

}  // namespace davit::cri

#endif  // DAVIT_CRI_DEVICES_H_
