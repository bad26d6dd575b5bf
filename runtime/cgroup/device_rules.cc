#include "runtime/cgroup/device_rules.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::runtime::cgroup {
namespace {

absl::StatusOr<uint32_t> ParseAccess(const std::string& letters) {
  if (letters.empty()) return kDeviceAll;
  uint32_t access = 0;
  for (const char letter : letters) {
    switch (letter) {
      case 'r':
        access |= kDeviceRead;
        break;
      case 'w':
        access |= kDeviceWrite;
        break;
      case 'm':
        access |= kDeviceMknod;
        break;
      default:
        return absl::InvalidArgumentError(
            absl::StrCat("device rule: access \"", letters, "\" is not of r, w and m"));
    }
  }
  return access;
}

absl::StatusOr<int64_t> ParseNumber(const std::optional<int64_t>& number) {
  const int64_t value = number.value_or(-1);
  // Linux device numbers are 12 and 20 bits wide, but a rule may name what cannot exist.
  if (value < -1 || value > UINT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("device rule: device number ", value));
  }
  return value;
}

bool SameDevices(const DeviceRule& a, const DeviceRule& b) {
  return a.type == b.type && a.major == b.major && a.minor == b.minor;
}

bool Overlap(const DeviceRule& a, const DeviceRule& b) {
  auto meet = [](int64_t x, int64_t y) { return x < 0 || y < 0 || x == y; };
  return a.type == b.type && meet(a.major, b.major) && meet(a.minor, b.minor) &&
         (a.access & b.access) != 0;
}

}  // namespace

absl::StatusOr<std::vector<DeviceRule>> NormalizeDeviceRules(
    const std::vector<spec::DeviceCgroupRule>& rules) {
  std::vector<DeviceRule> normal;
  for (const spec::DeviceCgroupRule& rule : rules) {
    DeviceRule device;
    device.allow = rule.allow;
    DAVIT_ASSIGN_OR_RETURN(device.access, ParseAccess(rule.access));
    DAVIT_ASSIGN_OR_RETURN(device.major, ParseNumber(rule.major));
    DAVIT_ASSIGN_OR_RETURN(device.minor, ParseNumber(rule.minor));
    if (rule.type.empty() || rule.type == "a") {
      if (device.access == kDeviceAll && device.major < 0 && device.minor < 0) {
        normal.push_back(device);
        continue;
      }
      for (const char type : {'b', 'c'}) {
        device.type = type;
        normal.push_back(device);
      }
    } else if (rule.type == "b" || rule.type == "c" || rule.type == "u") {
      device.type = rule.type == "b" ? 'b' : 'c';  // "u" is an unbuffered character device
      normal.push_back(device);
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("device rule: type \"", rule.type, "\" is not a, b or c"));
    }
  }
  return normal;
}

std::string FormatV1(const DeviceRule& rule) {
  if (rule.type == 'a') return "a";
  auto number = [](int64_t value) { return value < 0 ? "*" : absl::StrCat(value); };
  std::string text = absl::StrCat(std::string(1, rule.type), " ", number(rule.major), ":",
                                  number(rule.minor), " ");
  if ((rule.access & kDeviceRead) != 0) text += 'r';
  if ((rule.access & kDeviceWrite) != 0) text += 'w';
  if ((rule.access & kDeviceMknod) != 0) text += 'm';
  return text;
}

absl::Status CheckExpressibleInV1(const std::vector<DeviceRule>& rules) {
  bool allow_by_default = true;
  std::vector<DeviceRule> exceptions;
  for (const DeviceRule& rule : rules) {
    if (rule.type == 'a') {
      allow_by_default = rule.allow;
      exceptions.clear();
      continue;
    }
    if (rule.allow != allow_by_default) {
      exceptions.push_back(rule);
      continue;
    }
    for (DeviceRule& exception : exceptions) {
      if (SameDevices(exception, rule)) {
        exception.access &= ~rule.access;
      } else if (Overlap(exception, rule)) {
        return absl::FailedPreconditionError(
            absl::StrCat("device rule \"", rule.allow ? "allow " : "deny ", FormatV1(rule),
                         "\": cgroup v1 cannot take back a part of the earlier rule \"",
                         FormatV1(exception), "\""));
      }
    }
    exceptions.erase(std::remove_if(exceptions.begin(), exceptions.end(),
                                    [](const DeviceRule& e) { return e.access == 0; }),
                     exceptions.end());
  }
  return absl::OkStatus();
}

}  // namespace davit::runtime::cgroup
