#include "sandbox/pod_sysctls.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace davit::sandbox {
namespace {

// man 7 ipc_namespaces.
constexpr const char* kIpcSysctls[] = {
    "kernel.auto_msgmni",     "kernel.msg_next_id", "kernel.msgmax",      "kernel.msgmnb",
    "kernel.msgmni",          "kernel.sem",         "kernel.sem_next_id", "kernel.shm_next_id",
    "kernel.shm_rmid_forced", "kernel.shmall",      "kernel.shmmax",      "kernel.shmmni",
};

bool IsIpc(absl::string_view name) {
  return absl::StartsWith(name, "fs.mqueue.") ||
         std::find(std::begin(kIpcSysctls), std::end(kIpcSysctls), name) != std::end(kIpcSysctls);
}

// A name becomes a path below /proc/sys: no part of it may lead elsewhere.
bool IsWellFormed(absl::string_view name) {
  for (const absl::string_view part : absl::StrSplit(name, absl::ByAnyChar("./"))) {
    if (part.empty()) return false;
  }
  return name.find('\0') == absl::string_view::npos;
}

// The first separator decides which one it is: "net/ipv4/conf/eth0.1/forwarding" keeps its dot.
std::string Dotted(const std::string& name) {
  const size_t first = name.find_first_of("./");
  if (first == std::string::npos || name[first] == '.') return name;
  return absl::StrReplaceAll(name, {{"/", "."}, {".", "/"}});
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> PodSysctls(const PodSpec& spec) {
  const bool own_network = spec.network != NamespaceMode::kNode;
  const bool own_ipc = spec.ipc != NamespaceMode::kNode;
  std::map<std::string, std::string> sysctls;
  if (own_network) {
    sysctls["net.ipv4.ip_unprivileged_port_start"] = "0";
    sysctls["net.ipv4.ping_group_range"] = "0 2147483647";
  }
  for (const auto& [name, value] : spec.sysctls) {
    const std::string dotted = Dotted(name);
    if (!IsWellFormed(dotted)) {
      return absl::InvalidArgumentError(absl::StrCat("sysctl \"", name, "\" is not a name"));
    }
    const bool network = absl::StartsWith(dotted, "net.");
    const bool ipc = IsIpc(dotted);
    if (!network && !ipc) {
      return absl::InvalidArgumentError(absl::StrCat(
          "sysctl ", name, " does not belong to a namespace of the pod, it would change the node"));
    }
    if ((network && !own_network) || (ipc && !own_ipc)) {
      return absl::InvalidArgumentError(absl::StrCat("sysctl ", name,
                                                     " cannot be set: the pod shares the node's ",
                                                     network ? "network" : "IPC", " namespace"));
    }
    sysctls[dotted] = value;
  }
  return sysctls;
}

}  // namespace davit::sandbox
