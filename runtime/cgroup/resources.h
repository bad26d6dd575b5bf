#ifndef DAVIT_RUNTIME_CGROUP_RESOURCES_H_
#define DAVIT_RUNTIME_CGROUP_RESOURCES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/cgroup/layout.h"
#include "runtime/spec/spec.h"

// Resource limits as writes to cgroup files: a pure translation, no system calls. The writes can be
// executed by anyone who has the group's directories open (the supervisor's plan, Groups::Apply).
namespace davit::runtime::cgroup {

// What to do when a write fails in a way that does not matter.
enum WriteFlags : uint32_t {
  kWriteStrict = 0,
  kIgnoreMissing = 1 << 0,      // ENOENT: the kernel or the hierarchy has no such file
  kIgnoreInvalid = 1 << 1,      // EINVAL
  kIgnoreUnsupported = 1 << 2,  // EOPNOTSUPP, EPERM, EACCES
  kIgnoreBusy = 1 << 3,         // EBUSY
};

struct Write {
  int hierarchy = 0;  // index of Layout::hierarchies
  std::string file;   // "memory.limit_in_bytes"
  std::string value;
  uint32_t flags = kWriteStrict;
};

// What is set now and decides the order of an update's writes. Absent values are unlimited.
struct CurrentLimits {
  std::optional<int64_t> memory;           // bytes
  std::optional<int64_t> memory_and_swap;  // v1: memory.memsw.limit_in_bytes
  std::optional<int64_t> cpu_quota;        // v1: microseconds a period
  std::optional<uint64_t> cpu_period;
};

// The writes for a group, in the order in which the kernel accepts them. `current` is what a fresh
// group has unless given. Where a limit is asked for that the layout has no controller for, a
// pids, cpu, memory or cpuset limit is FailedPrecondition (a limit must not be dropped silently);
// hugetlb and block I/O are left out, since the kubelet always sends the former.
// A memory limit of 0 or a swap limit of 0 means "not set" in CRI and OCI practice; -1 is
// unlimited.
// Device rules become writes on v1 only; on v2 they are a program (device_bpf.h).
// InvalidArgument: contradictory or malformed values, unified keys with '/' or "..".
absl::StatusOr<std::vector<Write>> CompileResources(const spec::LinuxResources& resources,
                                                    const Layout& layout,
                                                    const CurrentLimits& current = {});

// cpu.shares (2 to 262144) -> cpu.weight (1 to 10000), the quadratic fit through (2, 1),
// (1024, 100) and (262144, 10000) that crun 1.23 and runc 1.3.2 use; 0 -> 0 ("not set").
uint64_t CpuSharesToWeight(uint64_t shares);

// blkio weight (10 to 1000) -> io.weight (1 to 10000), linear; 0 -> 0.
uint64_t BlkioWeightToIoWeight(uint16_t weight);

// The rules that every container needs whatever its own are: mknod of any device, and use of null,
// zero, full, random, urandom, tty, console, ptmx and the pseudo-terminals
// (runtime-spec config-linux.md, default devices).
std::vector<spec::DeviceCgroupRule> DefaultDeviceRules();

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_RESOURCES_H_
