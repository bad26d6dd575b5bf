#include "images/document/media_type.h"

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace davit::images {

bool IsIndexType(absl::string_view type) {
  return type == kOciIndexType || type == kDockerIndexType;
}

bool IsManifestType(absl::string_view type) {
  return type == kOciManifestType || type == kDockerManifestType;
}

bool IsConfigType(absl::string_view type) {
  return type == kOciConfigType || type == kDockerConfigType;
}

bool IsSchema1Type(absl::string_view type) {
  return absl::StartsWith(type, "application/vnd.docker.distribution.manifest.v1+");
}

std::string WithoutParameters(absl::string_view content_type) {
  return absl::AsciiStrToLower(
      absl::StripAsciiWhitespace(content_type.substr(0, content_type.find(';'))));
}

std::string ManifestAcceptHeader() {
  return absl::StrCat(kOciIndexType, ", ", kDockerIndexType, ", ", kOciManifestType, ", ",
                      kDockerManifestType);
}

}  // namespace davit::images
