#include "images/registry/host_settings.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

constexpr char kHubDomain[] = "docker.io";
constexpr char kHubApiHost[] = "registry-1.docker.io";

absl::StatusOr<Url> MirrorBase(const std::string& text) {
  const std::string url = absl::StrContains(text, "://") ? text : absl::StrCat("https://", text);
  auto base = ParseUrl(url);
  if (!base.ok()) return sys::Annotate(base.status(), "mirror");
  while (absl::EndsWith(base->path, "/")) base->path.pop_back();
  base->query.clear();
  return base;
}

}  // namespace

HostSettings::HostSettings(const std::map<std::string, RegistryOptions>& registries) {
  for (const auto& [host, options] : registries) {
    for (const std::string& mirror : options.mirrors) {
      const auto base = MirrorBase(mirror);
      if (base.ok() && base->scheme == "http") http_mirrors_.insert(base->HostPort());
    }
    const std::string key = absl::AsciiStrToLower(host);
    if (key == kHubDomain) registries_.emplace(kHubApiHost, options);
    registries_.emplace(key, options);
  }
}

absl::StatusOr<std::vector<Endpoint>> HostSettings::EndpointsFor(const Reference& reference) const {
  std::vector<Endpoint> endpoints;
  DAVIT_ASSIGN_OR_RETURN(const Url named, ParseUrl(absl::StrCat("https://", reference.ApiHost())));
  const auto it = registries_.find(absl::AsciiStrToLower(reference.domain));
  const RegistryOptions options = it == registries_.end() ? RegistryOptions() : it->second;

  const bool plain = options.insecure_http || (IsLoopbackHost(named.host) &&
                                               options.ca_file.empty() && !options.skip_verify);
  Endpoint origin;
  DAVIT_ASSIGN_OR_RETURN(
      origin.base, ParseUrl(absl::StrCat(plain ? "http://" : "https://", reference.ApiHost())));
  origin.base.path.clear();
  origin.is_origin = true;
  origin.may_authenticate = true;

  for (const std::string& mirror : options.mirrors) {
    Endpoint endpoint;
    DAVIT_ASSIGN_OR_RETURN(endpoint.base, MirrorBase(mirror));
    endpoint.may_authenticate = endpoint.base.Origin() == origin.base.Origin();
    endpoints.push_back(std::move(endpoint));
  }
  endpoints.push_back(std::move(origin));
  return endpoints;
}

bool HostSettings::HttpAllowed(const Url& url) const {
  if (IsLoopbackHost(url.host) || http_mirrors_.contains(url.HostPort())) return true;
  const RegistryOptions* options = OptionsFor(url);
  return options != nullptr && options->insecure_http;
}

TlsOptions HostSettings::TlsFor(const Url& url, const Url& from) const {
  TlsOptions tls;
  if (const RegistryOptions* own = OptionsFor(url)) {
    tls.ca_file = own->ca_file;
    tls.skip_verify = own->skip_verify;
  } else if (const RegistryOptions* start = OptionsFor(from)) {
    tls.ca_file = start->ca_file;
    tls.system_cas_too = true;
  }
  return tls;
}

const RegistryOptions* HostSettings::OptionsFor(const Url& url) const {
  auto it = registries_.find(url.HostPort());
  if (it == registries_.end() && (url.port == 443 || url.port == 80)) {
    it = registries_.find(url.host);
  }
  return it == registries_.end() ? nullptr : &it->second;
}

}  // namespace davit::images
