#ifndef DAVIT_IMAGES_DOCUMENT_MANIFEST_H_
#define DAVIT_IMAGES_DOCUMENT_MANIFEST_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/digest.h"
#include "images/document/platform.h"

// Indexes and manifests (image-spec image-index.md, manifest.md and their Docker twins), read from
// hostile bytes. Pure and thread-safe; every error is FailedPrecondition.
namespace davit::images {

inline constexpr size_t kMaxManifestBytes = 4 * 1024 * 1024;
inline constexpr size_t kMaxLayers = 500;  // what overlayfs stacks
inline constexpr int kMaxIndexNesting = 4;

// A pointer to content, checked: the digest is of a supported algorithm, the size not negative.
struct Descriptor {
  std::string media_type;
  Digest digest;
  uint64_t size = 0;
  std::string artifact_type;
  std::map<std::string, std::string> annotations;
  std::optional<Platform> platform;
};

struct Index {
  std::string media_type;
  std::vector<Descriptor> manifests;  // entries of unsupported digest algorithms are left out
  std::map<std::string, std::string> annotations;
};

struct Manifest {
  std::string media_type;
  Descriptor config;
  std::vector<Descriptor> layers;
  std::string artifact_type;
  std::map<std::string, std::string> annotations;

  // False for an artifact: the config is not an image's and must not be parsed.
  bool IsImage() const;
};

// Parses what a registry answered. `content_type` is its Content-Type header, or the media type of
// the descriptor that led here; it must not contradict the document's own mediaType. A document
// that could be read as either kind is refused (CVE-2021-41190), and so are duplicate names and
// Docker's schema 1.
absl::StatusOr<std::variant<Index, Manifest>> ParseManifestDocument(absl::string_view bytes,
                                                                    absl::string_view content_type);

// The entry that `host` runs best: attestations and unknown media types never match, an earlier
// entry wins among equals, and one without a platform is taken only if no other matches. NotFound
// lists what there is.
absl::StatusOr<Descriptor> ChooseManifest(const Index& index, const Platform& host);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_DOCUMENT_MANIFEST_H_
