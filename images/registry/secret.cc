#include "images/registry/secret.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "images/digest.h"

namespace davit::images {
namespace {

// "https://index.docker.io/v1/" -> "docker.io"
std::string HostOf(absl::string_view server_address) {
  const size_t scheme = server_address.find("://");
  if (scheme != absl::string_view::npos) server_address.remove_prefix(scheme + 3);
  std::string host = absl::AsciiStrToLower(server_address.substr(0, server_address.find('/')));
  if (host == "index.docker.io" || host == "registry-1.docker.io") host = "docker.io";
  return host;
}

}  // namespace

std::string Secret::BasicHeader() const {
  if (username.empty()) return "";
  return absl::StrCat("Basic ", absl::Base64Escape(absl::StrCat(username, ":", password)));
}

std::string Secret::Fingerprint() const {
  if (empty()) return "";
  std::string all;
  for (const std::string* part : {&username, &password, &identity_token, &registry_token}) {
    absl::StrAppend(&all, part->size(), ":", *part);
  }
  return Hasher::Hash(Digest::Algorithm::kSha256, all).hex();
}

Secret SecretFor(const std::optional<Credentials>& credentials, const Reference& reference) {
  Secret secret;
  if (!credentials.has_value()) return secret;
  if (!credentials->server_address.empty() &&
      HostOf(credentials->server_address) != absl::AsciiStrToLower(reference.domain)) {
    return secret;
  }
  if (!credentials->username.empty()) {
    secret.username = credentials->username;
    secret.password = credentials->password;
  } else if (!credentials->identity_token.empty()) {
    secret.identity_token = credentials->identity_token;
  } else if (!credentials->auth.empty()) {
    std::string decoded;
    if (!absl::Base64Unescape(credentials->auth, &decoded)) return secret;
    const size_t colon = decoded.find(':');
    if (colon == std::string::npos) return secret;
    secret.username = decoded.substr(0, colon);
    secret.password = decoded.substr(colon + 1);
    while (!secret.password.empty() && secret.password.back() == '\0') secret.password.pop_back();
  } else {
    secret.registry_token = credentials->registry_token;
  }
  return secret;
}

}  // namespace davit::images
