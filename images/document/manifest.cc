#include "images/document/manifest.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "images/document/json.h"
#include "images/document/media_type.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

using nlohmann::json;

absl::Status Refuse(absl::string_view why) { return absl::FailedPreconditionError(why); }

std::string Shown(absl::string_view text) { return absl::CHexEscape(text.substr(0, 160)); }

absl::StatusOr<Platform> ParsePlatform(const json& object) {
  Platform platform;
  DAVIT_ASSIGN_OR_RETURN(platform.os, StringMember(object, "os"));
  DAVIT_ASSIGN_OR_RETURN(platform.architecture, StringMember(object, "architecture"));
  DAVIT_ASSIGN_OR_RETURN(platform.variant, StringMember(object, "variant"));
  DAVIT_ASSIGN_OR_RETURN(platform.os_features, StringsMember(object, "os.features"));
  return platform;
}

// Unimplemented: well-formed, but of a digest algorithm that is not supported.
absl::StatusOr<Descriptor> ParseDescriptor(const json& object) {
  if (!object.is_object()) return Refuse("a descriptor is not an object");
  Descriptor descriptor;
  DAVIT_ASSIGN_OR_RETURN(descriptor.media_type, StringMember(object, "mediaType"));
  DAVIT_ASSIGN_OR_RETURN(descriptor.artifact_type, StringMember(object, "artifactType"));
  DAVIT_ASSIGN_OR_RETURN(descriptor.annotations, StringMapMember(object, "annotations"));
  DAVIT_ASSIGN_OR_RETURN(const std::string digest_text, StringMember(object, "digest"));
  const auto size = object.find("size");
  if (size == object.end() || !size->is_number_unsigned()) {
    return Refuse("a descriptor's \"size\" is not a whole number of bytes");
  }
  descriptor.size = size->get<uint64_t>();
  if (descriptor.size > (uint64_t{1} << 62)) return Refuse("a descriptor's \"size\" is absurd");
  DAVIT_ASSIGN_OR_RETURN(const json* platform, ObjectMember(object, "platform"));
  if (platform != nullptr) {
    DAVIT_ASSIGN_OR_RETURN(descriptor.platform, ParsePlatform(*platform));
  }
  auto digest = Digest::Parse(digest_text);
  if (!digest.ok()) {
    if (absl::IsUnimplemented(digest.status())) return digest.status();
    return Refuse(digest.status().message());
  }
  descriptor.digest = *std::move(digest);
  return descriptor;
}

absl::StatusOr<Descriptor> ParseUsedDescriptor(const json& object, absl::string_view what) {
  auto descriptor = ParseDescriptor(object);
  if (!descriptor.ok()) return Refuse(absl::StrCat(what, ": ", descriptor.status().message()));
  return descriptor;
}

absl::StatusOr<Index> ParseIndex(const json& document, std::string media_type) {
  if (document.contains("layers") || document.contains("config") || document.contains("fsLayers")) {
    return Refuse("the index could also be read as a manifest");
  }
  Index index;
  index.media_type = std::move(media_type);
  DAVIT_ASSIGN_OR_RETURN(index.annotations, StringMapMember(document, "annotations"));
  DAVIT_ASSIGN_OR_RETURN(const json* manifests, ArrayMember(document, "manifests"));
  if (manifests == nullptr) return Refuse("the index has no \"manifests\"");
  for (const json& item : *manifests) {
    auto descriptor = ParseDescriptor(item);
    if (absl::IsUnimplemented(descriptor.status())) continue;
    if (!descriptor.ok()) return sys::Annotate(descriptor.status(), "the index");
    index.manifests.push_back(*std::move(descriptor));
  }
  return index;
}

absl::StatusOr<Manifest> ParseManifest(const json& document, std::string media_type) {
  if (document.contains("manifests") || document.contains("fsLayers")) {
    return Refuse("the manifest could also be read as another kind of document");
  }
  Manifest manifest;
  manifest.media_type = std::move(media_type);
  DAVIT_ASSIGN_OR_RETURN(manifest.artifact_type, StringMember(document, "artifactType"));
  DAVIT_ASSIGN_OR_RETURN(manifest.annotations, StringMapMember(document, "annotations"));
  DAVIT_ASSIGN_OR_RETURN(const json* config, ObjectMember(document, "config"));
  if (config == nullptr) return Refuse("the manifest has no \"config\"");
  DAVIT_ASSIGN_OR_RETURN(manifest.config, ParseUsedDescriptor(*config, "the manifest's config"));
  DAVIT_ASSIGN_OR_RETURN(const json* layers, ArrayMember(document, "layers"));
  if (layers == nullptr) return Refuse("the manifest has no \"layers\"");
  if (layers->size() > kMaxLayers) {
    return Refuse(
        absl::StrCat("the manifest has ", layers->size(), " layers; the limit is ", kMaxLayers));
  }
  for (const json& item : *layers) {
    DAVIT_ASSIGN_OR_RETURN(Descriptor layer, ParseUsedDescriptor(item, "a layer of the manifest"));
    manifest.layers.push_back(std::move(layer));
  }
  return manifest;
}

// The one media type that the header and the document agree on.
absl::StatusOr<std::string> AgreedMediaType(const json& document, absl::string_view content_type) {
  const std::string header = WithoutParameters(content_type);
  DAVIT_ASSIGN_OR_RETURN(const std::string body, StringMember(document, "mediaType"));
  const auto version = document.find("schemaVersion");
  const bool version1 =
      version != document.end() && version->is_number_integer() && version->get<int64_t>() == 1;
  if (IsSchema1Type(header) || IsSchema1Type(body) || version1) {
    return Refuse(
        "the registry has this image as Docker schema 1 only, which is not supported: push it "
        "again with a current tool");
  }
  if (version == document.end() || !version->is_number_integer() || version->get<int64_t>() != 2) {
    return Refuse("the document's \"schemaVersion\" is not 2");
  }
  if (!header.empty() && !body.empty() && header != body) {
    return Refuse(absl::StrCat("the document says that it is \"", Shown(body),
                               "\", but was sent or listed as \"", Shown(header), "\""));
  }
  if (!header.empty() || !body.empty()) return header.empty() ? body : header;
  return std::string(document.contains("manifests") ? kOciIndexType : kOciManifestType);
}

bool IsAttestation(const Descriptor& entry) {
  const auto type = entry.annotations.find("vnd.docker.reference.type");
  return (type != entry.annotations.end() && type->second == "attestation-manifest") ||
         (entry.platform.has_value() && entry.platform->os == "unknown");
}

}  // namespace

bool Manifest::IsImage() const { return artifact_type.empty() && IsConfigType(config.media_type); }

absl::StatusOr<std::variant<Index, Manifest>> ParseManifestDocument(
    absl::string_view bytes, absl::string_view content_type) {
  DAVIT_ASSIGN_OR_RETURN(const json document,
                         ParseStrictJson(bytes, kMaxManifestBytes, "the manifest"));
  DAVIT_ASSIGN_OR_RETURN(std::string media_type, AgreedMediaType(document, content_type));
  if (IsIndexType(media_type)) return ParseIndex(document, std::move(media_type));
  if (IsManifestType(media_type)) return ParseManifest(document, std::move(media_type));
  return Refuse(absl::StrCat("\"", Shown(media_type), "\" is not a kind of manifest"));
}

absl::StatusOr<Descriptor> ChooseManifest(const Index& index, const Platform& host) {
  const Descriptor* best = nullptr;
  int best_rank = -1;
  std::vector<std::string> offered;
  for (const Descriptor& entry : index.manifests) {
    if (!IsManifestType(entry.media_type) && !IsIndexType(entry.media_type)) continue;
    if (IsAttestation(entry)) continue;
    int rank = 0;  // no platform given: better than nothing
    if (entry.platform.has_value()) {
      offered.push_back(Shown(PlatformName(*entry.platform)));
      rank = PlatformRank(host, *entry.platform);
      if (rank == 0) continue;
    } else if (!entry.artifact_type.empty() && index.manifests.size() > 1) {
      continue;  // signatures and other attachments beside the images
    }
    if (rank > best_rank) {
      best = &entry;
      best_rank = rank;
    }
  }
  if (best != nullptr) return *best;
  return absl::NotFoundError(
      absl::StrCat("no image for ", PlatformName(host), "; there is ",
                   offered.empty() ? "none for any platform" : absl::StrJoin(offered, ", ")));
}

}  // namespace davit::images
