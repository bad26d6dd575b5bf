#ifndef DAVIT_IMAGES_REGISTRY_REDIRECT_H_
#define DAVIT_IMAGES_REGISTRY_REDIRECT_H_

#include "absl/status/statusor.h"
#include "images/cancel.h"
#include "images/registry/host_settings.h"
#include "images/registry/http.h"

namespace davit::images {

struct FollowedResponse {
  HttpResponse response;
  bool from_origin = true;  // no redirect led to another origin
};

// A GET that follows redirects itself (distribution-spec, "Redirects"): at most ten; headers that
// carry credentials are dropped for good once the origin (scheme, host and port) changes; never
// from https to http, and to http only where HostSettings allows it. `authorization` is the value
// of the Authorization header or empty. Errors: as HttpClient::Perform; FailedPrecondition for a
// forbidden redirect.
absl::StatusOr<FollowedResponse> PerformFollowingRedirects(
    HttpClient& http, const HostSettings& settings, HttpRequest request,
    const std::string& authorization, BodySink* sink, const CancelToken& cancel);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_REDIRECT_H_
