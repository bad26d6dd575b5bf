#include "cri/capabilities.h"

#include <linux/capability.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/capability.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

using sys::CapabilityBit;

constexpr uint64_t kDefault =
    CapabilityBit(CAP_CHOWN) | CapabilityBit(CAP_DAC_OVERRIDE) | CapabilityBit(CAP_FSETID) |
    CapabilityBit(CAP_FOWNER) | CapabilityBit(CAP_MKNOD) | CapabilityBit(CAP_NET_RAW) |
    CapabilityBit(CAP_SETGID) | CapabilityBit(CAP_SETUID) | CapabilityBit(CAP_SETFCAP) |
    CapabilityBit(CAP_SETPCAP) | CapabilityBit(CAP_NET_BIND_SERVICE) |
    CapabilityBit(CAP_SYS_CHROOT) | CapabilityBit(CAP_KILL) | CapabilityBit(CAP_AUDIT_WRITE);

bool IsAll(const std::string& name) { return absl::EqualsIgnoreCase(name, "ALL"); }

bool HasAll(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (IsAll(name)) return true;
  }
  return false;
}

// The set of the single names in a list.
absl::StatusOr<uint64_t> Singles(const std::vector<std::string>& names, const char* list) {
  uint64_t set = 0;
  for (const std::string& name : names) {
    if (IsAll(name)) continue;
    const std::optional<int> number = sys::CapabilityNumber(name);
    if (!number) {
      return absl::InvalidArgumentError(
          absl::StrCat(list, ": unknown capability \"", name.substr(0, 64), "\""));
    }
    set |= CapabilityBit(*number);
  }
  return set;
}

absl::Status CheckAvailable(uint64_t asked, uint64_t available) {
  if ((asked & ~available) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("add_capabilities: davitd itself does not have ",
                   sys::CapabilityNames(asked & ~available).front(), ", so it cannot grant it"));
}

}  // namespace

absl::StatusOr<runtime::spec::Capabilities> BuildCapabilities(const CapabilityRequest& request,
                                                              uint64_t available, uint64_t* set) {
  DAVIT_ASSIGN_OR_RETURN(const uint64_t add, Singles(request.add, "add_capabilities"));
  DAVIT_ASSIGN_OR_RETURN(const uint64_t drop, Singles(request.drop, "drop_capabilities"));
  DAVIT_ASSIGN_OR_RETURN(uint64_t ambient,
                         Singles(request.add_ambient, "add_ambient_capabilities"));
  uint64_t result = kDefault & available;
  if (request.privileged) {
    result = available;
    ambient &= available;
  } else {
    DAVIT_RETURN_IF_ERROR(CheckAvailable(add | ambient, available));
    if (HasAll(request.add)) result = available;
    if (HasAll(request.drop)) result = 0;
    result |= add;
    result &= ~drop;
    if (HasAll(request.add_ambient)) ambient |= result;
    result |= ambient;
  }
  runtime::spec::Capabilities capabilities;
  capabilities.bounding = sys::CapabilityNames(result);
  capabilities.effective = capabilities.bounding;
  capabilities.permitted = capabilities.bounding;
  capabilities.inheritable = sys::CapabilityNames(ambient);
  capabilities.ambient = capabilities.inheritable;
  *set = result;
  return capabilities;
}

}  // namespace davit::cri
