#include "cri/sysctls.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

constexpr size_t kMaxName = 256;
constexpr size_t kMaxValue = 4096;

// sysctl(8): whichever of '.' and '/' comes first is the separator, the other one a character.
std::string Normalize(std::string name) {
  const size_t first = name.find_first_of("./");
  if (first == std::string::npos || name[first] == '.') return name;
  for (char& c : name) c = c == '/' ? '.' : (c == '.' ? '/' : c);
  return name;
}

absl::Status CheckShape(const std::string& name, const std::string& value) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("sysctl \"", name.substr(0, 64), "\": ", why));
  };
  if (name.empty() || name.size() > kMaxName) return bad("bad length of its name");
  if (name.find('\0') != std::string::npos || value.find('\0') != std::string::npos ||
      value.find('\n') != std::string::npos) {
    return bad("contains a NUL byte or a line break");
  }
  if (value.size() > kMaxValue) return bad("its value is too long");
  for (const absl::string_view part : absl::StrSplit(name, absl::ByAnyChar("./"))) {
    if (part.empty()) return bad("has an empty component");
  }
  return absl::OkStatus();
}

enum class Owner { kNetwork, kIpc, kUts, kNode };

Owner OwnerOf(const std::string& name) {
  if (absl::StartsWith(name, "net.")) return Owner::kNetwork;
  if (absl::StartsWith(name, "fs.mqueue.")) return Owner::kIpc;
  for (const char* ipc :
       {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
        "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.msg_next_id",
        "kernel.sem_next_id", "kernel.shm_next_id", "kernel.auto_msgmni"}) {
    if (name == ipc) return Owner::kIpc;
  }
  if (name == "kernel.domainname") return Owner::kUts;
  return Owner::kNode;
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> CheckSysctls(
    const std::map<std::string, std::string>& sysctls, const SysctlScope& scope) {
  std::map<std::string, std::string> checked;
  for (const auto& [given, value] : sysctls) {
    DAVIT_RETURN_IF_ERROR(CheckShape(given, value));
    const std::string name = Normalize(given);
    absl::string_view refusal;
    switch (OwnerOf(name)) {
      case Owner::kNetwork:
        if (scope.host_network) refusal = "a pod on the host's network would change the node's";
        break;
      case Owner::kIpc:
        if (scope.host_ipc) refusal = "a pod with the host's IPC would change the node's";
        break;
      case Owner::kUts:
        if (scope.host_network) refusal = "a pod with the host's name would change the node's";
        break;
      case Owner::kNode:
        refusal = "not in a namespace of the pod, it would change the node";
        break;
    }
    if (!refusal.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("sysctl \"", name, "\": ", refusal));
    }
    if (!checked.emplace(name, value).second) {
      return absl::InvalidArgumentError(absl::StrCat("sysctl \"", name, "\" is given twice"));
    }
  }
  return checked;
}

}  // namespace davit::cri
