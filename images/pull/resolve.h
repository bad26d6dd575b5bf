#ifndef DAVIT_IMAGES_PULL_RESOLVE_H_
#define DAVIT_IMAGES_PULL_RESOLVE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "images/cancel.h"
#include "images/document/manifest.h"
#include "images/document/platform.h"
#include "images/reference.h"
#include "images/registry/repository_client.h"
#include "images/store/catalog.h"

namespace davit::images {

// One document as the registry sent it.
struct PulledDocument {
  BlobRecord blob;
  Digest digest;
  std::string bytes;
};

// What a reference led to.
struct ResolvedImage {
  Digest top_digest;  // of what the reference names: an index where there is one
  Manifest manifest;
  Digest manifest_digest;
  std::vector<PulledDocument> documents;  // the indexes on the way, then the manifest
  bool from_index = false;

  // The names that a pull of `reference` gives the image.
  std::vector<std::string> NamesFor(const Reference& reference) const;
  std::vector<BlobRecord> Blobs() const;
};

// Fetches what `client`'s reference names, through nested indexes, for `host`. Errors as
// RepositoryClient's, and NotFound if no entry of an index fits the host.
absl::StatusOr<ResolvedImage> ResolveImage(RepositoryClient& client, const Platform& host,
                                           const CancelToken& cancel);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_RESOLVE_H_
