#include "images/registry/redirect.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

constexpr int kMaxRedirects = 10;

bool IsRedirect(const HttpResponse& response) {
  switch (response.status) {
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
      return !response.Header("location").empty();
    default:
      return false;
  }
}

}  // namespace

absl::StatusOr<FollowedResponse> PerformFollowingRedirects(
    HttpClient& http, const HostSettings& settings, HttpRequest request,
    const std::string& authorization, BodySink* sink, const CancelToken& cancel) {
  const Url start = request.url;
  const std::vector<std::string> plain_headers = request.headers;
  FollowedResponse result;
  for (int hop = 0; hop <= kMaxRedirects; ++hop) {
    if (request.url.scheme == "http" && !settings.HttpAllowed(request.url)) {
      return absl::FailedPreconditionError(
          absl::StrCat(request.url.Origin(),
                       ": plain HTTP is not allowed for this host (insecure_http allows it)"));
    }
    request.tls = settings.TlsFor(request.url, start);
    request.headers = plain_headers;
    if (result.from_origin && !authorization.empty()) {
      request.headers.push_back(absl::StrCat("Authorization: ", authorization));
    }
    DAVIT_ASSIGN_OR_RETURN(result.response, http.Perform(request, sink, cancel));
    if (!IsRedirect(result.response)) return result;

    auto next = ResolveUrl(request.url, result.response.Header("location"));
    if (!next.ok()) {
      return absl::FailedPreconditionError(
          absl::StrCat(request.url.Redacted(), ": ", next.status().message()));
    }
    if (request.url.scheme == "https" && next->scheme == "http" && !settings.HttpAllowed(*next)) {
      return absl::FailedPreconditionError(absl::StrCat(
          request.url.Redacted(), ": a redirect from https to http at ", next->Origin()));
    }
    if (next->Origin() != request.url.Origin()) result.from_origin = false;
    request.url = *std::move(next);
  }
  return absl::FailedPreconditionError(
      absl::StrCat(start.Redacted(), ": more than ", kMaxRedirects, " redirects"));
}

}  // namespace davit::images
