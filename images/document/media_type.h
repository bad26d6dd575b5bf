#ifndef DAVIT_IMAGES_DOCUMENT_MEDIA_TYPE_H_
#define DAVIT_IMAGES_DOCUMENT_MEDIA_TYPE_H_

#include <string>

#include "absl/strings/string_view.h"

// The media types of images (image-spec media-types.md; Docker image manifest v2, schema 2).
namespace davit::images {

inline constexpr char kOciIndexType[] = "application/vnd.oci.image.index.v1+json";
inline constexpr char kDockerIndexType[] =
    "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr char kOciManifestType[] = "application/vnd.oci.image.manifest.v1+json";
inline constexpr char kDockerManifestType[] =
    "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr char kOciConfigType[] = "application/vnd.oci.image.config.v1+json";
inline constexpr char kDockerConfigType[] = "application/vnd.docker.container.image.v1+json";

bool IsIndexType(absl::string_view type);
bool IsManifestType(absl::string_view type);
bool IsConfigType(absl::string_view type);
// Docker's first format, which answers to "*/*" on old registries and is not supported.
bool IsSchema1Type(absl::string_view type);

// "application/json; charset=utf-8" -> "application/json"
std::string WithoutParameters(absl::string_view content_type);

// The Accept header of a manifest request: always explicit, or old registries answer with schema 1.
std::string ManifestAcceptHeader();

}  // namespace davit::images

#endif  // DAVIT_IMAGES_DOCUMENT_MEDIA_TYPE_H_
