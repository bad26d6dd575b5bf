#ifndef DAVIT_IMAGES_REGISTRY_URL_H_
#define DAVIT_IMAGES_REGISTRY_URL_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::images {

// An absolute http or https URL (RFC 3986), parsed by libcurl so that what is checked is what is
// fetched. A value type.
struct Url {
  std::string scheme;  // "http" or "https"
  std::string host;    // lowercase; an IPv6 address without brackets
  int port = 0;        // never 0
  std::string path;    // begins with "/"
  std::string query;   // without "?"

  std::string HostPort() const;  // "host:port", brackets for IPv6
  std::string Origin() const;    // "scheme://host:port": what credentials belong to
  std::string ToString() const;
  // For errors and logs: no query, which may hold a signature.
  std::string Redacted() const;
};

// InvalidArgument: other schemes, user information inside, malformed. The message does not repeat
// the query.
absl::StatusOr<Url> ParseUrl(absl::string_view text);
// `location` may be relative to `base` (RFC 9110, "Location").
absl::StatusOr<Url> ResolveUrl(const Url& base, absl::string_view location);

// localhost, 127.0.0.0/8, ::1.
bool IsLoopbackHost(absl::string_view host);

// Percent-encodes everything that is not unreserved.
std::string QueryEscape(absl::string_view text);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_URL_H_
