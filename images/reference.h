#ifndef DAVIT_IMAGES_REFERENCE_H_
#define DAVIT_IMAGES_REFERENCE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/digest.h"

namespace davit::images {

// A normalised image reference: what "busybox", "host:5000/a/b:tag" or "name:tag@sha256:..." mean
// (the grammar of distribution/reference; the familiar names of Docker). A value type.
struct Reference {
  std::string domain;  // "docker.io", "127.0.0.1:5000", "[::1]:5000"
  std::string path;    // "library/busybox"
  std::string tag;     // empty if there is only a digest
  Digest digest;       // wins over the tag; empty if there is none

  std::string Repository() const;  // "docker.io/library/busybox"
  // "<repository>:<tag>"; "" unless the reference is by tag alone: a name with a digest gives an
  // image no tag.
  std::string Tagged() const;
  std::string WithDigest(const Digest& value) const;  // "<repository>@<digest>"
  // What goes into the registry's URL after "manifests/": the digest, else the tag.
  std::string ManifestKey() const;
  // Whom to ask: the domain, or registry-1.docker.io for docker.io.
  std::string ApiHost() const;
};

// Parses and normalises. InvalidArgument says which part is wrong.
absl::StatusOr<Reference> ParseReference(absl::string_view text);

// The digits of an image id or of a prefix of one: "sha256:<hex>" or bare hex, at least
// `min_digits` and at most 64 lowercase hex digits. "" if `text` is not that.
std::string IdDigits(absl::string_view text, size_t min_digits);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_REFERENCE_H_
