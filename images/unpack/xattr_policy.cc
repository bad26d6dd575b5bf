#include "images/unpack/xattr_policy.h"

#include <linux/capability.h>

#include <cstdint>

#include "absl/strings/match.h"

namespace davit::images::unpack {
namespace {

XattrAction ClassifyCapability(absl::string_view value, EntryType type) {
  if (type != EntryType::kFile) return XattrAction::kDrop;
  if (value.size() < sizeof(uint32_t)) return XattrAction::kRefuse;
  uint32_t magic = 0;
  for (size_t i = 0; i < sizeof magic; ++i) {
    magic |= static_cast<uint32_t>(static_cast<uint8_t>(value[i])) << (8 * i);
  }
  switch (magic & VFS_CAP_REVISION_MASK) {
    case VFS_CAP_REVISION_2:
      return value.size() == XATTR_CAPS_SZ_2 ? XattrAction::kSet : XattrAction::kRefuse;
    case VFS_CAP_REVISION_1:
    case VFS_CAP_REVISION_3:
      return XattrAction::kDrop;
    default:
      return XattrAction::kRefuse;
  }
}

}  // namespace

XattrAction ClassifyXattr(absl::string_view name, absl::string_view value, EntryType type) {
  if (absl::StartsWith(name, "trusted.overlay.") || absl::StartsWith(name, "user.overlay.") ||
      name == "security.selinux" || name == "security.ima" || name == "security.evm") {
    return XattrAction::kStrip;
  }
  if (name == "security.capability") return ClassifyCapability(value, type);
  const bool plain = type == EntryType::kFile || type == EntryType::kDirectory;
  if (absl::StartsWith(name, "trusted.") && name.size() > 8) {
    return plain ? XattrAction::kRecord : XattrAction::kDrop;
  }
  if (!plain) return XattrAction::kDrop;
  if (absl::StartsWith(name, "user.") || name == "system.posix_acl_access" ||
      name == "system.posix_acl_default") {
    return XattrAction::kSet;
  }
  return XattrAction::kDrop;
}

}  // namespace davit::images::unpack
