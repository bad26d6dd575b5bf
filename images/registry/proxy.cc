#include "images/registry/proxy.h"

#include <arpa/inet.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace davit::images {
namespace {

std::string Environment(const char* upper, const char* lower) {
  const char* value = std::getenv(upper);
  if (value == nullptr || *value == '\0') value = std::getenv(lower);
  return value == nullptr ? "" : value;
}

// An address as its family and bytes; size 0 if `text` is not one.
struct Address {
  int bits = 0;
  unsigned char bytes[16] = {};
};

Address ParseAddress(const std::string& text) {
  Address address;
  if (inet_pton(AF_INET, text.c_str(), address.bytes) == 1) {
    address.bits = 32;
  } else if (inet_pton(AF_INET6, text.c_str(), address.bytes) == 1) {
    address.bits = 128;
  }
  return address;
}

bool InBlock(const Address& address, const Address& block, int prefix) {
  if (address.bits == 0 || address.bits != block.bits || prefix < 0 || prefix > address.bits) {
    return false;
  }
  const int whole = prefix / 8;
  if (std::memcmp(address.bytes, block.bytes, static_cast<size_t>(whole)) != 0) return false;
  if (prefix % 8 == 0) return true;
  const int mask = 0xff << (8 - prefix % 8) & 0xff;
  return (address.bytes[whole] & mask) == (block.bytes[whole] & mask);
}

bool MatchesHost(const std::string& entry, const Url& url) {
  const size_t slash = entry.find('/');
  if (slash != std::string::npos) {
    int prefix = -1;
    return absl::SimpleAtoi(entry.substr(slash + 1), &prefix) &&
           InBlock(ParseAddress(url.host), ParseAddress(entry.substr(0, slash)), prefix);
  }
  if (entry == url.host) return true;
  const Address address = ParseAddress(entry);
  if (address.bits != 0) return InBlock(ParseAddress(url.host), address, address.bits);
  const std::string suffix = entry[0] == '.' ? entry : "." + entry;
  return absl::EndsWith(url.host, suffix);
}

bool Matches(std::string entry, const Url& url) {
  if (entry == "*") return true;
  // "host:port" and "[v6]:port", but not a bare IPv6 address.
  const size_t colon = entry.rfind(':');
  const bool bracketed = entry[0] == '[';
  if (colon != std::string::npos &&
      (bracketed ? entry[colon - 1] == ']' : entry.find(':') == colon)) {
    int port = 0;
    if (!absl::SimpleAtoi(entry.substr(colon + 1), &port) || port != url.port) return false;
    entry = entry.substr(0, colon);
  }
  if (bracketed && entry.size() > 2) entry = entry.substr(1, entry.find(']') - 1);
  if (absl::StartsWith(entry, "*.")) entry = entry.substr(1);
  return !entry.empty() && MatchesHost(entry, url);
}

}  // namespace

ProxySettings::ProxySettings(std::string http, std::string https, absl::string_view no_proxy)
    : http_(std::move(http)), https_(std::move(https)) {
  for (const absl::string_view entry : absl::StrSplit(no_proxy, ',')) {
    std::string text = absl::AsciiStrToLower(absl::StripAsciiWhitespace(entry));
    if (!text.empty()) no_proxy_.push_back(std::move(text));
  }
}

ProxySettings ProxySettings::FromEnvironment() {
  return ProxySettings(Environment("HTTP_PROXY", "http_proxy"),
                       Environment("HTTPS_PROXY", "https_proxy"),
                       Environment("NO_PROXY", "no_proxy"));
}

std::string ProxySettings::ProxyFor(const Url& url) const {
  const std::string& proxy = url.scheme == "https" ? https_ : http_;
  return proxy.empty() || Bypassed(url) ? "" : proxy;
}

bool ProxySettings::Bypassed(const Url& url) const {
  if (IsLoopbackHost(url.host)) return true;
  for (const std::string& entry : no_proxy_) {
    if (Matches(entry, url)) return true;
  }
  return false;
}

}  // namespace davit::images
