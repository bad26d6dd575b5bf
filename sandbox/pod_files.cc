#include "sandbox/pod_files.h"

#include <fcntl.h>
#include <sys/utsname.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

constexpr size_t kMaxNodeFile = 4 * 1024 * 1024;
constexpr size_t kMaxHostname = 64;  // __NEW_UTS_LEN

bool IsOneWord(absl::string_view text) {
  for (const unsigned char c : text) {
    if (c <= ' ' || c == 0x7f) return false;
  }
  return !text.empty();
}

absl::StatusOr<std::string> NodeFile(const std::string& path) {
  auto content = sys::ReadFileAt(AT_FDCWD, path, kMaxNodeFile);
  if (absl::IsNotFound(content.status())) return std::string();
  return content;
}

// Plain writes: nobody reads the files before the pod is known, and a pod whose making was cut
// short is cleared away as a whole.
absl::Status WriteNew(int dir, const std::string& name, absl::string_view data) {
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd file,
                         sys::OpenAt(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0644));
  return sys::WriteAll(file.get(), data, name);
}

}  // namespace

std::string NodeName() {
  utsname name;
  return uname(&name) == 0 ? name.nodename : "localhost";
}

std::string ResolvConf(const DnsConfig& dns) {
  std::string text;
  if (!dns.searches.empty()) {
    absl::StrAppend(&text, "search ", absl::StrJoin(dns.searches, " "), "\n");
  }
  for (const std::string& server : dns.servers) absl::StrAppend(&text, "nameserver ", server, "\n");
  if (!dns.options.empty()) {
    absl::StrAppend(&text, "options ", absl::StrJoin(dns.options, " "), "\n");
  }
  return text;
}

absl::Status CheckDns(const DnsConfig& dns) {
  for (const auto* list : {&dns.servers, &dns.searches, &dns.options}) {
    for (const std::string& value : *list) {
      if (!IsOneWord(value)) {
        return absl::InvalidArgumentError(
            absl::StrCat("DNS configuration: \"", value, "\" is not a single word"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckHostname(absl::string_view hostname) {
  if (hostname.empty()) return absl::OkStatus();
  if (hostname.size() > kMaxHostname || !IsOneWord(hostname)) {
    return absl::InvalidArgumentError(absl::StrCat("hostname \"", hostname, "\": at most ",
                                                   kMaxHostname,
                                                   " bytes without white space are allowed"));
  }
  return absl::OkStatus();
}

absl::Status WritePodFiles(const std::string& directory, const std::string& hostname,
                           const std::optional<DnsConfig>& dns) {
  DAVIT_RETURN_IF_ERROR(CheckHostname(hostname));
  std::string resolv_conf;
  if (dns.has_value()) {
    DAVIT_RETURN_IF_ERROR(CheckDns(*dns));
    resolv_conf = ResolvConf(*dns);
  } else {
    DAVIT_ASSIGN_OR_RETURN(resolv_conf, NodeFile("/etc/resolv.conf"));
  }
  DAVIT_ASSIGN_OR_RETURN(const std::string hosts, NodeFile("/etc/hosts"));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd dir, sys::OpenDirAt(AT_FDCWD, directory));
  const std::string name = hostname.empty() ? NodeName() : hostname;
  DAVIT_RETURN_IF_ERROR(WriteNew(dir.get(), kHostnameFile, absl::StrCat(name, "\n")));
  DAVIT_RETURN_IF_ERROR(WriteNew(dir.get(), kHostsFile, hosts));
  return WriteNew(dir.get(), kResolvConfFile, resolv_conf);
}

}  // namespace davit::sandbox
