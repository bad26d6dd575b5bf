#ifndef DAVIT_RUNTIME_SYS_CAPABILITY_H_
#define DAVIT_RUNTIME_SYS_CAPABILITY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// Linux capabilities by name and number (man 7 capabilities). A set is a uint64_t with bit N for
// capability N. Thread-safe.
namespace davit::sys {

// "CAP_CHOWN" -> 0. Also takes the name without "CAP_", and any case (as CRI clients send it).
// Names of capabilities that this kernel does not have are known as well. Empty for anything else.
std::optional<int> CapabilityNumber(absl::string_view name);

// 0 -> "CAP_CHOWN"; "CAP_57" for a number without a name.
std::string CapabilityName(int number);

// The names of a set, in the order of their numbers.
std::vector<std::string> CapabilityNames(uint64_t set);

constexpr uint64_t CapabilityBit(int number) { return uint64_t{1} << number; }

// The highest capability of the running kernel (/proc/sys/kernel/cap_last_cap).
absl::StatusOr<int> LastCapability();

// The calling thread's permitted set: the most that "all capabilities" can mean for a container.
// A daemon in a restricted environment lacks some (CAP_SYS_RESOURCE, often).
absl::StatusOr<uint64_t> PermittedCapabilities();

// The calling thread's bounding set.
absl::StatusOr<uint64_t> BoundingCapabilities();

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_CAPABILITY_H_
