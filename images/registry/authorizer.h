#ifndef DAVIT_IMAGES_REGISTRY_AUTHORIZER_H_
#define DAVIT_IMAGES_REGISTRY_AUTHORIZER_H_

#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "images/cancel.h"
#include "images/registry/challenge.h"
#include "images/registry/host_settings.h"
#include "images/registry/http.h"
#include "images/registry/retry.h"
#include "images/registry/secret.h"
#include "runtime/sys/mutex.h"

namespace davit::images {

// Bearer tokens of all pulls, by (realm, service, scope, fingerprint of the secret): pulls with
// different credentials never share one. Thread-safe.
class TokenCache {
 public:
  std::optional<std::string> Get(const std::string& key);
  void Put(const std::string& key, std::string token, absl::Duration lifetime);
  // Forgets `token`, which a registry has refused, unless another has taken its place.
  void Drop(const std::string& key, const std::string& token);

 private:
  struct Entry {
    std::string token;
    absl::Time expiry;
  };
  sys::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

// Authenticates the requests to one endpoint for one repository with one secret (distribution's
// token specification; RFC 7617; OAuth2). Thread-safe; makes its own token requests, each with
// retries.
class Authorizer {
 public:
  // `http`, `tokens` and `settings` must outlive this. `scope` is "repository:<name>:pull".
  Authorizer(HttpClient* http, TokenCache* tokens, const HostSettings* settings, RetryPolicy retry,
             Secret secret, Url endpoint, std::string scope);

  // The value of the Authorization header for the next request, or "". Fetches a new token when the
  // one at hand has expired.
  absl::StatusOr<std::string> Header(const CancelToken& cancel);

  // The endpoint answered 401 to a request that carried `used`. OK: ask Header() and try again.
  // Unauthenticated: there is nothing better to offer. `attempt` counts from 0 in one request.
  absl::Status OnUnauthorized(const HttpResponse& response, const std::string& used, int attempt,
                              const CancelToken& cancel);

 private:
  enum class Scheme { kUnknown, kAnonymous, kBasic, kBearer };
  struct Token {
    std::string value;
    absl::Duration lifetime;
  };

  absl::Status UseBearer(const Challenge& challenge, const std::string& used,
                         const CancelToken& cancel);
  absl::StatusOr<std::string> BearerToken(const CancelToken& cancel);
  absl::StatusOr<Token> RequestToken(const Url& realm, const std::string& service,
                                     const std::string& scope, const CancelToken& cancel);
  absl::StatusOr<HttpResponse> Send(HttpRequest request, const std::string& authorization,
                                    std::string* body, const CancelToken& cancel);
  std::string CacheKey() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  HttpClient* const http_;
  TokenCache* const tokens_;
  const HostSettings* const settings_;
  const RetryPolicy retry_;
  const Secret secret_;
  const Url endpoint_;

  mutable sys::Mutex mutex_;
  Scheme scheme_ ABSL_GUARDED_BY(mutex_) = Scheme::kUnknown;
  std::string scope_ ABSL_GUARDED_BY(mutex_);
  Url realm_ ABSL_GUARDED_BY(mutex_);
  std::string service_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_AUTHORIZER_H_
