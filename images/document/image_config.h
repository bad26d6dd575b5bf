#ifndef DAVIT_IMAGES_DOCUMENT_IMAGE_CONFIG_H_
#define DAVIT_IMAGES_DOCUMENT_IMAGE_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/digest.h"
#include "images/document/platform.h"
#include "images/image.h"

namespace davit::images {

inline constexpr size_t kMaxConfigBytes = 8 * 1024 * 1024;

struct ParsedConfig {
  ImageConfig config;
  Platform platform;
  std::vector<Digest> diff_ids;  // bottom layer first
};

// Parses an image config (image-spec config.md) from hostile bytes. FailedPrecondition: not strict
// JSON, an unknown rootfs type, more than kMaxLayers diff IDs, a User out of range. Pure.
absl::StatusOr<ParsedConfig> ParseImageConfig(absl::string_view bytes);

// The "user[:group]" of an image. Either part may be a number or a name.
struct ImageUser {
  std::optional<uint32_t> uid;
  std::string user_name;  // empty if uid is set
  std::optional<uint32_t> gid;
  std::string group_name;  // empty if gid is set or no group is given
};

// Numbers above 2^31-1 are refused: they would wrap to other users, root among them
// (CVE-2024-40635). FailedPrecondition. An empty text is the empty user.
absl::StatusOr<ImageUser> ParseImageUser(absl::string_view text);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_DOCUMENT_IMAGE_CONFIG_H_
