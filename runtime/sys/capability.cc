#include "runtime/sys/capability.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sys {
namespace {

// The position is the number (linux/capability.h).
constexpr std::array<absl::string_view, 41> kNames = {
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
};
static_assert(kNames.size() == CAP_CHECKPOINT_RESTORE + 1);

}  // namespace

std::optional<int> CapabilityNumber(absl::string_view name) {
  const std::string upper = absl::AsciiStrToUpper(name);
  absl::string_view bare = upper;
  absl::ConsumePrefix(&bare, "CAP_");
  for (size_t number = 0; number < kNames.size(); ++number) {
    if (kNames[number] == bare) return static_cast<int>(number);
  }
  return std::nullopt;
}

std::string CapabilityName(int number) {
  if (number >= 0 && number < static_cast<int>(kNames.size())) {
    return absl::StrCat("CAP_", kNames[static_cast<size_t>(number)]);
  }
  return absl::StrCat("CAP_", number);
}

std::vector<std::string> CapabilityNames(uint64_t set) {
  std::vector<std::string> names;
  for (int number = 0; number < 64; ++number) {
    if ((set & CapabilityBit(number)) != 0) names.push_back(CapabilityName(number));
  }
  return names;
}

absl::StatusOr<int> LastCapability() {
  DAVIT_ASSIGN_OR_RETURN(const std::string text,
                         ReadFileAt(AT_FDCWD, "/proc/sys/kernel/cap_last_cap", 64));
  int last = 0;
  if (!absl::SimpleAtoi(text, &last) || last < 0 || last > 63) {
    return absl::InternalError(
        absl::StrCat("read /proc/sys/kernel/cap_last_cap: unexpected \"", text, "\""));
  }
  return last;
}

absl::StatusOr<uint64_t> PermittedCapabilities() {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  if (syscall(SYS_capget, &header, data) != 0) return ErrnoStatus(errno, "capget");
  return (static_cast<uint64_t>(data[1].permitted) << 32) | data[0].permitted;
}

absl::StatusOr<uint64_t> BoundingCapabilities() {
  DAVIT_ASSIGN_OR_RETURN(const int last, LastCapability());
  uint64_t set = 0;
  for (int number = 0; number <= last; ++number) {
    const int present = prctl(PR_CAPBSET_READ, number, 0, 0, 0);
    if (present < 0) return ErrnoStatus(errno, absl::StrCat("read bounding capability ", number));
    if (present == 1) set |= CapabilityBit(number);
  }
  return set;
}

}  // namespace davit::sys
