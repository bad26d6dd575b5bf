#ifndef DAVIT_RUNTIME_CGROUP_DEVICE_BPF_H_
#define DAVIT_RUNTIME_CGROUP_DEVICE_BPF_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/unique_fd.h"

// The device controller of cgroup v2: an eBPF program of type CGROUP_DEVICE that the kernel asks at
// every open and mknod of a device (kernel >= 4.15, man 2 bpf).
namespace davit::runtime::cgroup {

// The program for ordered rules: for each kind of access that is asked for (read, write, mknod) the
// last matching rule decides, and all must be allowed; what no rule matches is denied. Returns
// the instructions as bytes (8 each, host byte order), ready to be loaded by anyone. An empty
// string where the rules allow everything, or there are none: no program is needed. Pure.
// InvalidArgument for malformed rules, ResourceExhausted for more than the kernel can take (4096
// instructions).
absl::StatusOr<std::string> CompileDeviceProgram(const std::vector<spec::DeviceCgroupRule>& rules);

// Loads a program into the kernel. The verifier's words are in the error.
absl::StatusOr<sys::UniqueFd> LoadDeviceProgram(const std::string& program);

// Attaches a loaded program to a v2 group, given by a descriptor of its directory (not O_PATH). It
// lives as long as the group. Programs of ancestors go on to apply: all must allow
// (BPF_F_ALLOW_MULTI).
absl::Status AttachDeviceProgram(int group, int program);

// Attaches `program` in the place of all device programs attached to this group itself, with no
// moment in which neither decides. `program` -1 takes them away. Kernel >= 5.6 for the atomic
// replacement.
absl::Status ReplaceDeviceProgram(int group, int program);

// The ids of the device programs attached to this group itself.
absl::StatusOr<std::vector<uint32_t>> ListDevicePrograms(int group);

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_DEVICE_BPF_H_
