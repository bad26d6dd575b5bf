#ifndef DAVIT_IMAGES_REGISTRY_HOST_SETTINGS_H_
#define DAVIT_IMAGES_REGISTRY_HOST_SETTINGS_H_

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "images/image_service.h"
#include "images/reference.h"
#include "images/registry/http.h"
#include "images/registry/url.h"

namespace davit::images {

// One place to ask for a repository: a mirror or the registry itself.
struct Endpoint {
  Url base;  // path without a trailing slash; "/v2/<name>/..." is appended
  bool is_origin = false;
  // The pull's credentials may be sent here: the registry itself, or a mirror on the same host.
  bool may_authenticate = false;
};

// The `registries` of the configuration as a pull uses them. Immutable.
class HostSettings {
 public:
  explicit HostSettings(const std::map<std::string, RegistryOptions>& registries);

  // Mirrors in their order, then the registry. InvalidArgument names a malformed mirror URL.
  absl::StatusOr<std::vector<Endpoint>> EndpointsFor(const Reference& reference) const;

  // Plain HTTP only to loopback, hosts with insecure_http, and mirrors written with http://.
  bool HttpAllowed(const Url& url) const;

  // How to verify `url` when it was reached from `from` (a redirect's or a token realm's start; the
  // same as `url` otherwise). A host with settings of its own has those; a host reached from one
  // with a private CA trusts that CA besides the system's.
  TlsOptions TlsFor(const Url& url, const Url& from) const;

 private:
  const RegistryOptions* OptionsFor(const Url& url) const;

  std::map<std::string, RegistryOptions> registries_;  // by host:port and by host
  std::set<std::string> http_mirrors_;                 // host:port
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_HOST_SETTINGS_H_
