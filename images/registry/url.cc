#include "images/registry/url.h"

#include <arpa/inet.h>
#include <curl/curl.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace davit::images {
namespace {

struct CurlUrlDeleter {
  void operator()(CURLU* url) const { curl_url_cleanup(url); }
};
using CurlUrl = std::unique_ptr<CURLU, CurlUrlDeleter>;

std::string Part(CURLU* url, CURLUPart part, unsigned flags = 0) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, flags) != CURLUE_OK || text == nullptr) return "";
  std::string result = text;
  curl_free(text);
  return result;
}

absl::StatusOr<Url> FromCurl(CURLU* parsed) {
  Url url;
  url.scheme = absl::AsciiStrToLower(Part(parsed, CURLUPART_SCHEME));
  if (url.scheme != "http" && url.scheme != "https") {
    return absl::InvalidArgumentError(
        absl::StrCat("the URL scheme \"", absl::CHexEscape(url.scheme), "\" is not http or https"));
  }
  if (!Part(parsed, CURLUPART_USER).empty() || !Part(parsed, CURLUPART_PASSWORD).empty()) {
    return absl::InvalidArgumentError("a URL must not hold a user name or a password");
  }
  url.host = absl::AsciiStrToLower(Part(parsed, CURLUPART_HOST));
  if (absl::StartsWith(url.host, "[") && absl::EndsWith(url.host, "]")) {
    url.host = url.host.substr(1, url.host.size() - 2);
  }
  if (url.host.empty()) return absl::InvalidArgumentError("a URL has no host");
  if (!absl::SimpleAtoi(Part(parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT), &url.port) ||
      url.port <= 0) {
    return absl::InvalidArgumentError("a URL has no valid port");
  }
  url.path = Part(parsed, CURLUPART_PATH);
  if (url.path.empty()) url.path.push_back('/');  // GCC 12 at -O2 warns wrongly of an assignment
  url.query = Part(parsed, CURLUPART_QUERY);
  return url;
}

}  // namespace

std::string Url::HostPort() const {
  return absl::StrContains(host, ":") ? absl::StrCat("[", host, "]:", port)
                                      : absl::StrCat(host, ":", port);
}

std::string Url::Origin() const { return absl::StrCat(scheme, "://", HostPort()); }

std::string Url::ToString() const {
  return absl::StrCat(Origin(), path, query.empty() ? "" : "?", query);
}

std::string Url::Redacted() const {
  return absl::StrCat(Origin(), path, query.empty() ? "" : "?...");
}

absl::StatusOr<Url> ParseUrl(absl::string_view text) {
  const CurlUrl parsed(curl_url());
  if (curl_url_set(parsed.get(), CURLUPART_URL, std::string(text).c_str(),
                   CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
    return absl::InvalidArgumentError(absl::StrCat(
        "\"", absl::CHexEscape(text.substr(0, text.find('?')).substr(0, 200)), "\" is not a URL"));
  }
  return FromCurl(parsed.get());
}

absl::StatusOr<Url> ResolveUrl(const Url& base, absl::string_view location) {
  const CurlUrl parsed(curl_url());
  if (curl_url_set(parsed.get(), CURLUPART_URL, base.ToString().c_str(), 0) != CURLUE_OK ||
      curl_url_set(parsed.get(), CURLUPART_URL, std::string(location).c_str(),
                   CURLU_NON_SUPPORT_SCHEME) != CURLUE_OK) {
    return absl::InvalidArgumentError("the redirect leads to something that is not a URL");
  }
  return FromCurl(parsed.get());
}

bool IsLoopbackHost(absl::string_view host) {
  if (host == "localhost") return true;
  const std::string text(host);
  in_addr v4;
  if (inet_pton(AF_INET, text.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, text.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

std::string QueryEscape(absl::string_view text) {
  static constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if (absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out.push_back(c);
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out.push_back('%');
      out.push_back(kHex[byte >> 4]);
      out.push_back(kHex[byte & 15]);
    }
  }
  return out;
}

}  // namespace davit::images
