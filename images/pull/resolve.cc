#include "images/pull/resolve.h"

#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

// What an index says about its entry must be what is then found.
absl::Status CheckAgainst(const Descriptor& promised, const FetchedManifest& fetched) {
  if (promised.size != fetched.bytes.size()) {
    return absl::DataLossError(absl::StrCat("manifest ", promised.digest.ToString(), " has ",
                                            fetched.bytes.size(), " bytes, the index says ",
                                            promised.size));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> ResolvedImage::NamesFor(const Reference& reference) const {
  std::vector<std::string> names = {reference.WithDigest(top_digest)};
  if (!reference.Tagged().empty()) names.push_back(reference.Tagged());
  return names;
}

std::vector<BlobRecord> ResolvedImage::Blobs() const {
  std::vector<BlobRecord> blobs;
  for (const PulledDocument& document : documents) blobs.push_back(document.blob);
  return blobs;
}

absl::StatusOr<ResolvedImage> ResolveImage(RepositoryClient& client, const Platform& host,
                                           const CancelToken& cancel) {
  ResolvedImage resolved;
  DAVIT_ASSIGN_OR_RETURN(FetchedManifest fetched,
                         client.FetchManifest(client.reference().ManifestKey(), cancel));
  resolved.top_digest = fetched.digest;
  std::string content_type = fetched.media_type;
  for (int depth = 0;; ++depth) {
    auto parsed = ParseManifestDocument(fetched.bytes, content_type);
    if (!parsed.ok()) return parsed.status();
    Manifest* const manifest = std::get_if<Manifest>(&*parsed);
    const Index* const index = std::get_if<Index>(&*parsed);
    PulledDocument document;
    document.digest = fetched.digest;
    document.blob.digest = fetched.digest.ToString();
    document.blob.media_type = manifest != nullptr ? manifest->media_type : index->media_type;
    document.blob.size = fetched.bytes.size();
    document.blob.kind = manifest != nullptr ? BlobKind::kManifest : BlobKind::kIndex;
    document.bytes = std::move(fetched.bytes);
    resolved.documents.push_back(std::move(document));
    if (manifest != nullptr) {
      resolved.manifest = std::move(*manifest);
      resolved.manifest_digest = fetched.digest;
      resolved.from_index = depth > 0;
      return resolved;
    }
    if (depth == kMaxIndexNesting) {
      return absl::FailedPreconditionError(
          absl::StrCat("indexes are nested more than ", kMaxIndexNesting, " deep"));
    }
    DAVIT_ASSIGN_OR_RETURN(const Descriptor chosen, ChooseManifest(*index, host));
    DAVIT_ASSIGN_OR_RETURN(fetched, client.FetchManifest(chosen.digest.ToString(), cancel));
    DAVIT_RETURN_IF_ERROR(CheckAgainst(chosen, fetched));
    content_type = chosen.media_type;
  }
}

}  // namespace davit::images
