#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/plan/context.h"

namespace davit::runtime::plan {
namespace {

constexpr const char* kIpcKeys[] = {
    "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni",          "kernel/sem",
    "kernel/shmall", "kernel/shmmax", "kernel/shm_rmid_forced", "kernel/shmmni",
};

// "net.ipv4.ip_forward" -> "net/ipv4/ip_forward". As sysctl(8): where the first separator is a
// slash, dots are part of names ("net/ipv4/conf/eth0.1/forwarding").
std::string KeyToPath(absl::string_view key) {
  std::string path(key);
  const size_t first = path.find_first_of("./");
  if (first != std::string::npos && path[first] == '.') {
    for (char& c : path) c = c == '.' ? '/' : c == '/' ? '.' : c;
  }
  return path;
}

bool WellFormed(absl::string_view path) {
  if (path.empty() || path.front() == '/' || path.back() == '/') return false;
  if (absl::StrContains(path, "//")) return false;
  const std::string framed = absl::StrCat("/", path, "/");
  return !absl::StrContains(framed, "/../") && !absl::StrContains(framed, "/./");
}

absl::Status Check(const Context& context, const std::string& path) {
  const auto isolated = [&](spec::NamespaceType type) {
    return context.Use(type) != NamespaceUse::kHost;
  };
  const auto need = [&](spec::NamespaceType type, const char* name) {
    if (isolated(type)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("is set for the whole host: the container has no ", name, " namespace"));
  };
  if (absl::StartsWith(path, "net/")) return need(spec::NamespaceType::kNetwork, "network");
  if (absl::StartsWith(path, "fs/mqueue/")) return need(spec::NamespaceType::kIpc, "IPC");
  if (std::find(std::begin(kIpcKeys), std::end(kIpcKeys), path) != std::end(kIpcKeys)) {
    return need(spec::NamespaceType::kIpc, "IPC");
  }
  if (path == "kernel/domainname") return need(spec::NamespaceType::kUts, "UTS");
  if (path == "kernel/hostname") {
    return absl::InvalidArgumentError("is set by the field hostname");
  }
  if (absl::StartsWith(path, "user/") && context.user_namespace) return absl::OkStatus();
  return absl::InvalidArgumentError("is not a namespaced sysctl");
}

}  // namespace

absl::Status CompileSysctls(Context& context) {
  if (context.spec.linux_.sysctl.empty()) return absl::OkStatus();
  const int32_t proc = context.builder.NewSlot();
  context.builder.Child(Code::kOpenProc).b = proc;
  for (const auto& [key, value] : context.spec.linux_.sysctl) {
    const std::string path = KeyToPath(key);
    const absl::Status status =
        WellFormed(path) ? Check(context, path) : absl::InvalidArgumentError("is not a sysctl");
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("linux.sysctl: ", key, " ", status.message()));
    }
    Op& op = context.builder.Child(Code::kSysctl);
    op.a = proc;
    op.s = context.builder.String(path);
    op.t = context.builder.String(value);
  }
  return absl::OkStatus();
}

}  // namespace davit::runtime::plan
