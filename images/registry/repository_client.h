#ifndef DAVIT_IMAGES_REGISTRY_REPOSITORY_CLIENT_H_
#define DAVIT_IMAGES_REGISTRY_REPOSITORY_CLIENT_H_

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/cancel.h"
#include "images/document/manifest.h"
#include "images/reference.h"
#include "images/registry/authorizer.h"
#include "images/registry/host_settings.h"
#include "images/registry/http.h"
#include "images/registry/redirect.h"
#include "images/registry/retry.h"
#include "images/registry/secret.h"

namespace davit::images {

// What all pulls share. Must outlive them. Thread-safe.
struct RegistryContext {
  HttpClientOptions http;
  RetryPolicy retry;
  TokenCache tokens;
  Throttle throttle;
};

struct FetchedManifest {
  std::string bytes;  // verbatim
  std::string media_type;
  Digest digest;  // computed here
};

// Receives a blob in order. An error ends the fetch and is returned as it is.
using BlobWriter = std::function<absl::Status(absl::string_view)>;

// Fetches manifests and blobs of one repository with one caller's credentials, from the mirrors in
// their order and then from the registry (distribution-spec, "Pull"). Retries with backoff, obeys
// Retry-After, renews tokens in the middle of a pull. Thread-safe.
//
// Errors: NotFound, Unauthenticated, PermissionDenied, Unavailable (the registry cannot be reached
// or keeps failing), DataLoss (digest or size differ from what was promised), FailedPrecondition
// (an answer that breaks the rules), Cancelled. They name hosts and digests, never a credential or
// a query.
class RepositoryClient {
 public:
  // InvalidArgument for a malformed mirror in the settings.
  static absl::StatusOr<std::unique_ptr<RepositoryClient>> Create(
      RegistryContext* context, std::shared_ptr<const HostSettings> settings, Reference reference,
      const Secret& secret);
  ~RepositoryClient();

  // `key` is a tag or a digest; of a digest, the bytes have been verified.
  absl::StatusOr<FetchedManifest> FetchManifest(const std::string& key, const CancelToken& cancel);

  // Streams the blob into `writer`; OK means that exactly descriptor.size bytes with that digest
  // went there. A broken transfer goes on where it stopped (HTTP ranges). Aborted: a mirror sent
  // wrong bytes and will not be asked again; start over with a new writer.
  absl::Status FetchBlob(const Descriptor& descriptor, const BlobWriter& writer,
                         const CancelToken& cancel);

  // A whole small blob.
  absl::StatusOr<std::string> FetchSmallBlob(const Descriptor& descriptor, size_t limit,
                                             const CancelToken& cancel);

  const Reference& reference() const { return reference_; }

 private:
  friend class BlobFetch;

  struct Source {
    Endpoint endpoint;
    std::unique_ptr<Authorizer> authorizer;
    std::atomic<bool> disabled{false};
  };

  RepositoryClient(RegistryContext* context, std::shared_ptr<const HostSettings> settings,
                   Reference reference);

  // One authorised GET of "/v2/<name>/<path>", without retries of failed transfers.
  absl::StatusOr<FollowedResponse> Get(Source& source, const std::string& path,
                                       const std::vector<std::string>& headers, BodySink* sink,
                                       const CancelToken& cancel);
  absl::StatusOr<FetchedManifest> FetchManifestFrom(Source& source, const std::string& key,
                                                    const CancelToken& cancel);
  // The sources that are worth asking, the one that last had a manifest first.
  std::vector<Source*> Sources();

  RegistryContext* const context_;
  const std::shared_ptr<const HostSettings> settings_;
  const Reference reference_;
  HttpClient http_;
  std::vector<std::unique_ptr<Source>> sources_;
  std::atomic<Source*> preferred_{nullptr};
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REGISTRY_REPOSITORY_CLIENT_H_
