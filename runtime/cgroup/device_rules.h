#ifndef DAVIT_RUNTIME_CGROUP_DEVICE_RULES_H_
#define DAVIT_RUNTIME_CGROUP_DEVICE_RULES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"

// The device rules of config.json in one checked form that both cgroup versions are made from.
// Rules are ordered: for each access the last rule that matches decides. All functions are pure.
namespace davit::runtime::cgroup {

inline constexpr uint32_t kDeviceMknod = 1;  // the values of linux/bpf.h, BPF_DEVCG_ACC_*
inline constexpr uint32_t kDeviceRead = 2;
inline constexpr uint32_t kDeviceWrite = 4;
inline constexpr uint32_t kDeviceAll = 7;

struct DeviceRule {
  bool allow = false;
  char type = 'a';     // 'a' stands for every device and access; else 'b' or 'c'
  int64_t major = -1;  // -1: every one
  int64_t minor = -1;
  uint32_t access = kDeviceAll;
};

// Checks the rules and brings them into this form: a rule for type "a" that is restricted otherwise
// becomes one for "b" and one for "c". InvalidArgument for unknown types, letters or numbers.
absl::StatusOr<std::vector<DeviceRule>> NormalizeDeviceRules(
    const std::vector<spec::DeviceCgroupRule>& rules);

// "c 1:3 rwm", "b *:* m", "a".
std::string FormatV1(const DeviceRule& rule);

// The v1 controller keeps a default and a list of exceptions to it, and takes an exception back
// only where the rule equals it. FailedPrecondition for rules that need more than that (which would
// otherwise allow what should be denied, silently).
absl::Status CheckExpressibleInV1(const std::vector<DeviceRule>& rules);

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_DEVICE_RULES_H_
