#ifndef DAVIT_SANDBOX_POD_FILES_H_
#define DAVIT_SANDBOX_POD_FILES_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "sandbox/manager.h"

// The three files that davitd writes for each pod and that its containers see at /etc.
namespace davit::sandbox {

inline constexpr char kHostnameFile[] = "hostname";
inline constexpr char kHostsFile[] = "hosts";
inline constexpr char kResolvConfFile[] = "resolv.conf";

// Writes them into `directory`: the hostname (the node's when `hostname` is empty), a copy of the
// node's /etc/hosts, and resolv.conf from `dns`, or a copy of the node's. A node without those
// files gives empty ones. InvalidArgument for values that would start a line of their own.
absl::Status WritePodFiles(const std::string& directory, const std::string& hostname,
                           const std::optional<DnsConfig>& dns);

// "search a b", one "nameserver x" each, "options o p"; parts that are empty are left out.
std::string ResolvConf(const DnsConfig& dns);

// OK if no value holds white space or control characters.
absl::Status CheckDns(const DnsConfig& dns);
absl::Status CheckHostname(absl::string_view hostname);

// The node's own name (man 2 uname).
std::string NodeName();

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_POD_FILES_H_
