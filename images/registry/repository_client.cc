#include "images/registry/repository_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/document/media_type.h"
#include "images/registry/blob_fetch.h"
#include "images/registry/registry_error.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

bool IsRetryable(const absl::Status& status) {
  return absl::IsUnavailable(status) && !IsPermanent(status);
}

absl::Status CheckManifestDigest(const std::string& key, const HttpResponse& response,
                                 absl::string_view bytes, Digest* digest) {
  const auto wanted = Digest::Parse(key);  // a tag cannot hold a colon
  *digest = Hasher::Hash(wanted.ok() ? wanted->algorithm() : Digest::Algorithm::kSha256, bytes);
  if (wanted.ok() && *wanted != *digest) {
    return absl::DataLossError(
        absl::StrCat("the manifest's digest is ", digest->ToString(), ", not ", key));
  }
  const auto announced = Digest::Parse(response.Header("docker-content-digest"));
  if (announced.ok() && announced->algorithm() == digest->algorithm() && *announced != *digest) {
    return absl::DataLossError(absl::StrCat("the manifest's digest is ", digest->ToString(),
                                            ", but the registry announced ",
                                            announced->ToString()));
  }
  return absl::OkStatus();
}

}  // namespace

RepositoryClient::RepositoryClient(RegistryContext* context,
                                   std::shared_ptr<const HostSettings> settings,
                                   Reference reference)
    : context_(context),
      settings_(std::move(settings)),
      reference_(std::move(reference)),
      http_(context->http) {}

RepositoryClient::~RepositoryClient() = default;

absl::StatusOr<std::unique_ptr<RepositoryClient>> RepositoryClient::Create(
    RegistryContext* context, std::shared_ptr<const HostSettings> settings, Reference reference,
    const Secret& secret) {
  auto client = std::unique_ptr<RepositoryClient>(
      new RepositoryClient(context, std::move(settings), std::move(reference)));
  DAVIT_ASSIGN_OR_RETURN(std::vector<Endpoint> endpoints,
                         client->settings_->EndpointsFor(client->reference_));
  const std::string scope = absl::StrCat("repository:", client->reference_.path, ":pull");
  for (Endpoint& endpoint : endpoints) {
    auto source = std::make_unique<Source>();
    source->authorizer = std::make_unique<Authorizer>(
        &client->http_, &context->tokens, client->settings_.get(), context->retry,
        endpoint.may_authenticate ? secret : Secret(), endpoint.base, scope);
    source->endpoint = std::move(endpoint);
    client->sources_.push_back(std::move(source));
  }
  return client;
}

std::vector<RepositoryClient::Source*> RepositoryClient::Sources() {
  std::vector<Source*> sources;
  Source* const preferred = preferred_.load();
  for (const auto& source : sources_) {
    if (!source->disabled.load()) sources.push_back(source.get());
  }
  std::stable_partition(sources.begin(), sources.end(),
                        [preferred](const Source* source) { return source == preferred; });
  return sources;
}

absl::StatusOr<FollowedResponse> RepositoryClient::Get(Source& source, const std::string& path,
                                                       const std::vector<std::string>& headers,
                                                       BodySink* sink, const CancelToken& cancel) {
  HttpRequest request;
  request.url = source.endpoint.base;
  // Harbor's proxy projects are written as "https://host/v2/project".
  const bool has_v2 = request.url.path.rfind("/v2", 0) == 0;
  absl::StrAppend(&request.url.path, has_v2 ? "/" : "/v2/", reference_.path, "/", path);
  request.headers = headers;
  const std::string origin = request.url.Origin();
  for (int attempt = 0;; ++attempt) {
    DAVIT_RETURN_IF_ERROR(context_->throttle.Wait(origin, cancel));
    DAVIT_ASSIGN_OR_RETURN(const std::string authorization, source.authorizer->Header(cancel));
    DAVIT_ASSIGN_OR_RETURN(
        FollowedResponse followed,
        PerformFollowingRedirects(http_, *settings_, request, authorization, sink, cancel));
    if (followed.response.status == 429 || followed.response.status == 503) {
      const auto wait = ParseRetryAfter(followed.response.Header("retry-after"), absl::Now());
      if (wait.has_value()) {
        context_->throttle.Delay(origin, std::min(*wait, context_->retry.retry_after_cap));
      }
    }
    if (followed.response.status != 401 || !followed.from_origin) return followed;
    DAVIT_RETURN_IF_ERROR(
        source.authorizer->OnUnauthorized(followed.response, authorization, attempt, cancel));
  }
}

absl::StatusOr<FetchedManifest> RepositoryClient::FetchManifestFrom(Source& source,
                                                                    const std::string& key,
                                                                    const CancelToken& cancel) {
  StringSink sink(kMaxManifestBytes);
  DAVIT_ASSIGN_OR_RETURN(const FollowedResponse followed,
                         Get(source, absl::StrCat("manifests/", key),
                             {absl::StrCat("Accept: ", ManifestAcceptHeader())}, &sink, cancel));
  const HttpResponse& response = followed.response;
  if (response.status != 200) {
    return StatusFromResponse(response, source.endpoint.base.Origin());
  }
  FetchedManifest manifest;
  manifest.media_type = WithoutParameters(response.Header("content-type"));
  manifest.bytes = std::move(sink.body());
  DAVIT_RETURN_IF_ERROR(CheckManifestDigest(key, response, manifest.bytes, &manifest.digest));
  return manifest;
}

absl::StatusOr<FetchedManifest> RepositoryClient::FetchManifest(const std::string& key,
                                                                const CancelToken& cancel) {
  std::string mirrors_said;
  absl::Status last = absl::UnavailableError("there is no registry to ask");
  const std::vector<Source*> sources = Sources();
  for (size_t i = 0; i < sources.size(); ++i) {
    Source& source = *sources[i];
    // A mirror that fails is passed over at once; the last in the row is worth waiting for.
    const int attempts = i + 1 == sources.size() ? context_->retry.request_attempts : 1;
    for (int attempt = 1;; ++attempt) {
      auto manifest = FetchManifestFrom(source, key, cancel);
      if (manifest.ok()) {
        preferred_.store(&source);
        return manifest;
      }
      last = manifest.status();
      if (absl::IsCancelled(last)) return last;
      if (!IsRetryable(last) || attempt >= attempts) break;
      DAVIT_RETURN_IF_ERROR(SleepFor(BackoffDelay(context_->retry, attempt, std::nullopt), cancel));
    }
    if (i + 1 < sources.size()) {
      absl::StrAppend(&mirrors_said, "; before, ", last.message());
    }
  }
  if (mirrors_said.empty()) return last;
  return absl::Status(last.code(), absl::StrCat(last.message(), mirrors_said));
}

absl::Status RepositoryClient::FetchBlob(const Descriptor& descriptor, const BlobWriter& writer,
                                         const CancelToken& cancel) {
  absl::Status status = BlobFetch(this, descriptor, writer, cancel).Run();
  if (status.ok()) return status;
  return sys::Annotate(status, absl::StrCat("blob ", descriptor.digest.ToString()));
}

absl::StatusOr<std::string> RepositoryClient::FetchSmallBlob(const Descriptor& descriptor,
                                                             size_t limit,
                                                             const CancelToken& cancel) {
  if (descriptor.size > limit) {
    return absl::FailedPreconditionError(absl::StrCat("blob ", descriptor.digest.ToString(),
                                                      " has ", descriptor.size,
                                                      " bytes; the limit is ", limit));
  }
  for (size_t round = 0;; ++round) {
    std::string bytes;
    const absl::Status status = FetchBlob(
        descriptor,
        [&bytes](absl::string_view data) {
          bytes.append(data.data(), data.size());
          return absl::OkStatus();
        },
        cancel);
    if (status.ok()) return bytes;
    // Each round disables a mirror, so there are no more rounds than sources.
    if (!absl::IsAborted(status) || round >= sources_.size()) return status;
  }
}

}  // namespace davit::images
