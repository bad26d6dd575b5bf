#ifndef DAVIT_CRI_MOUNTS_H_
#define DAVIT_CRI_MOUNTS_H_

#include <google/protobuf/repeated_field.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/spec/spec.h"

namespace runtime::v1 {
class Mount;
}

namespace davit::cri {

struct MountInputs {
  bool privileged = false;
  bool readonly_rootfs = false;
  bool host_ipc = false;
  bool user_namespace = false;      // the pod has one: its files are mapped into it
  bool recursive_read_only = true;  // the kernel has mount_setattr
  // Host paths of the pod's files; "" = none.
  std::string hostname_path;
  std::string hosts_path;
  std::string resolv_conf_path;
  // Paths of the image's VOLUMEs that have to be mounted to be there and writable.
  std::vector<std::string> volumes;
};

// The mounts of a container, parents before children: the default ones of facts that Kubernetes
// workloads rely on (proc, dev, devpts, shm, mqueue, sys, cgroup, the pod's files), unless a CRI
// mount takes their place, and the CRI mounts. A CRI mount at /dev replaces all defaults beneath
// it. /dev/shm stands for the pod's shared one.
//
// Sources are not opened here: the path may be on a dead NFS server. A missing one is found (or
// made) when the container is created. Only for propagation other than private the source's mount
// is looked up, because it must be shared (or slave) for that.
//
// InvalidArgument: relative or missing paths, the root as destination, two mounts at one path,
// recursive_read_only without readonly and private propagation, a source that cannot propagate.
// id mappings of one kind only, or that overlap. Unimplemented: image volumes, mount options.
absl::StatusOr<std::vector<runtime::spec::Mount>> BuildMounts(
    const google::protobuf::RepeatedPtrField<::runtime::v1::Mount>& mounts,
    const MountInputs& inputs);

// How the mount that holds `path` propagates, by the text of a mountinfo file (man 5
// proc_pid_mountinfo).
enum class Propagation { kPrivate, kSlave, kShared };
Propagation PropagationOf(absl::string_view mountinfo, absl::string_view path);

// An absolute path without ".", ".." (which stay inside the root), doubled or trailing slashes.
std::string CleanPath(absl::string_view path);

}  // namespace davit::cri

#endif  // DAVIT_CRI_MOUNTS_H_
