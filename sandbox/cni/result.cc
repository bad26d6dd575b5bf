#include "sandbox/cni/result.h"

#include <arpa/inet.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "sandbox/cni/json.h"

namespace davit::sandbox::cni {
namespace {

// "10.1.2.3/24" -> "10.1.2.3", in the usual spelling.
absl::StatusOr<std::string> Address(const std::string& text) {
  const std::string plain = text.substr(0, text.find('/'));
  unsigned char bytes[sizeof(in6_addr)];
  char spelled[INET6_ADDRSTRLEN];
  for (const int family : {AF_INET, AF_INET6}) {
    if (inet_pton(family, plain.c_str(), bytes) == 1 &&
        inet_ntop(family, bytes, spelled, sizeof spelled) != nullptr) {
      return std::string(spelled);
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("CNI result: \"", text, "\" is not an IP address"));
}

// An address without an interface is the pod's; one with an interface only if that is in a sandbox.
bool IsInSandbox(const nlohmann::json& result, const nlohmann::json& ip) {
  const auto index = ip.find("interface");
  const auto interfaces = result.find("interfaces");
  if (index == ip.end() || !index->is_number_integer()) return true;
  if (interfaces == result.end() || !interfaces->is_array()) return true;
  const int64_t number = index->get<int64_t>();
  if (number < 0 || number >= static_cast<int64_t>(interfaces->size())) return true;
  return !StringMember((*interfaces)[static_cast<size_t>(number)], "sandbox").empty();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ParseResultIps(absl::string_view json) {
  DAVIT_ASSIGN_OR_RETURN(const nlohmann::json result, ParseJson(json, "CNI result"));
  if (!result.is_object()) return absl::InvalidArgumentError("CNI result: not an object");
  std::vector<std::string> ips;
  if (const auto list = result.find("ips"); list != result.end() && list->is_array()) {
    for (const nlohmann::json& ip : *list) {
      if (!ip.is_object()) return absl::InvalidArgumentError("CNI result: malformed \"ips\"");
      if (!IsInSandbox(result, ip)) continue;
      DAVIT_ASSIGN_OR_RETURN(std::string address, Address(StringMember(ip, "address")));
      ips.push_back(std::move(address));
    }
  }
  for (const char* key : {"ip4", "ip6"}) {
    const auto old = result.find(key);
    if (old == result.end() || !old->is_object()) continue;
    DAVIT_ASSIGN_OR_RETURN(std::string address, Address(StringMember(*old, "ip")));
    ips.push_back(std::move(address));
  }
  return ips;
}

}  // namespace davit::sandbox::cni
