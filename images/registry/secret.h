#ifndef DAVIT_IMAGES_REGISTRY_SECRET_H_
#define DAVIT_IMAGES_REGISTRY_SECRET_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "images/image_service.h"
#include "images/reference.h"

namespace davit::images {

// The one way in which a pull proves who it is. At most one of the three is set. Never logged.
struct Secret {
  std::string username;  // with password
  std::string password;
  std::string identity_token;  // an OAuth2 refresh token
  std::string registry_token;  // sent as a bearer token as it is

  bool empty() const {
    return username.empty() && password.empty() && identity_token.empty() && registry_token.empty();
  }
  std::string BasicHeader() const;  // "Basic ...", "" without a user name
  // A digest that tells secrets apart without holding them.
  std::string Fingerprint() const;
};

// What of CRI's AuthConfig applies to `reference`: user name and password first, then the identity
// token, then `auth`, then the registry token. Empty if there is none, or if server_address names
// another host.
Secret SecretFor(const std::optional<Credentials>& credentials, const Reference& reference);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_SECRET_H_
