#ifndef DAVIT_IMAGES_REGISTRY_PROXY_H_
#define DAVIT_IMAGES_REGISTRY_PROXY_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "images/registry/url.h"

namespace davit::images {

// Which proxy a URL is fetched through, as HTTP_PROXY, HTTPS_PROXY and NO_PROXY (or their lowercase
// forms) say. Decided here and not by libcurl, which ignores HTTP_PROXY in capitals. Immutable.
//
// NO_PROXY is a list separated by commas: "*", a host name (it and its subdomains; a leading dot:
// subdomains only), an address, a CIDR block; each may end in ":port". Loopback is never proxied.
class ProxySettings {
 public:
  ProxySettings() = default;
  ProxySettings(std::string http, std::string https, absl::string_view no_proxy);
  static ProxySettings FromEnvironment();

  // "" means a direct connection.
  std::string ProxyFor(const Url& url) const;

 private:
  bool Bypassed(const Url& url) const;

  std::string http_;
  std::string https_;
  std::vector<std::string> no_proxy_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_PROXY_H_
