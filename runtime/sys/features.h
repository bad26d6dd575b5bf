#ifndef DAVIT_RUNTIME_SYS_FEATURES_H_
#define DAVIT_RUNTIME_SYS_FEATURES_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

namespace davit::sys {

// What the running kernel can do. Probed once at start and passed by value or const reference to
// whoever chooses between variants: a variant is chosen here and then kept, never found by
// swallowing an error later. A plain value; copies are cheap enough and thread-safe to share.
struct KernelFeatures {
  std::string release;  // uname -r
  int major = 0;
  int minor = 0;

  // Paths and mounts.
  bool openat2 = false;                  // 5.6
  bool new_mount_api = false;            // fsopen, fsmount, move_mount: 5.2
  bool mount_setattr = false;            // 5.12
  bool overlay = false;                  // the file system is there (built in or loaded)
  bool overlay_lowerdir_append = false;  // fsconfig "lowerdir+", and no 256-byte limit: 6.7
  bool overlay_layer_fds = false;        // FSCONFIG_SET_FD for overlay layers: 6.13
  bool clone_detached_mount = false;     // open_tree(OPEN_TREE_CLONE) of a detached mount: 6.15
  bool move_into_detached = false;       // move_mount with a target in a detached tree: 6.15
  bool idmapped_mounts = false;          // of the root file system: 5.12, by file system
  bool idmapped_tmpfs = false;           // 6.3: what a pod with a user namespace needs

  // Processes and namespaces.
  bool clone_into_cgroup = false;  // clone3 with CLONE_INTO_CGROUP: 5.7
  bool pidfd_exit_info = false;    // PIDFD_GET_INFO tells the exit status after the reap: 6.15
  bool user_namespaces = false;    // present, and not switched off by sysctl
  bool cgroup_namespaces = false;  // 4.6
  bool time_namespaces = false;    // 5.6

  // Cgroups.
  bool cgroup_v2 = false;    // a cgroup2 file system can be made
  bool cgroup_kill = false;  // cgroup.kill: 5.14
  bool psi = false;          // /proc/pressure, and *.pressure on v2

  // Confinement.
  bool seccomp_filter = false;
  bool seccomp_notify = false;         // 5.0
  bool seccomp_wait_killable = false;  // SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: 5.19
  int landlock_abi = 0;                // 0: none
  bool apparmor = false;
  bool selinux = false;
  bool cgroup_device_bpf = false;  // BPF_PROG_TYPE_CGROUP_DEVICE programs load
};

// Tries each feature on objects of its own (detached mounts, a child that exits at once): nothing
// of the system changes and nothing stays open. Takes a few milliseconds. Needs root; a feature
// that could not be tried counts as missing. Thread-safe.
KernelFeatures ProbeKernel();

// OK from Linux 6.1 on with the system calls that everything here stands on; else
// FailedPrecondition, with the sentence that an administrator should read.
absl::Status CheckKernelFloor(const KernelFeatures& features);

// OK if pods can have user namespaces here: they are on, tmpfs can be id-mapped (6.3), and an
// overlay takes id-mapped layers one by one (6.7). The file system of the layers has its own say,
// see CanIdMap. Else FailedPrecondition, which
// names what is missing.
absl::Status CheckUserNamespaces(const KernelFeatures& features);

// Whether mounts of the file system that holds `path` can be id-mapped, which depends on the file
// system's type (ext4, xfs, btrfs and others since 5.12 to 5.19, tmpfs since 6.3, NFS never).
// False as well where user namespaces are off. Thread-safe.
bool CanIdMap(const std::string& path);

// "name" -> "yes" / "no" / a number, in a fixed order: for `crictl info`.
std::vector<std::pair<std::string, std::string>> ListFeatures(const KernelFeatures& features);

// One line for the start log: the release, then what is there and, after "without", what is not.
std::string Describe(const KernelFeatures& features);

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_FEATURES_H_
