#include "images/unpack/xattr_policy.h"

#include <gtest/gtest.h>

#include <string>

namespace davit::images::unpack {
namespace {

std::string Capability(char revision, size_t size) {
  std::string value(size, '\0');
  value[3] = revision;
  return value;
}

TEST(XattrPolicy, DecidesByNameValueAndType) {
  using enum XattrAction;
  const struct {
    const char* name;
    std::string value;
    EntryType type;
    XattrAction want;
  } kCases[] = {
      {"user.a", "v", EntryType::kFile, kSet},
      {"user.a", "v", EntryType::kDirectory, kSet},
      {"user.a", "v", EntryType::kSymlink, kDrop},
      {"user.a", "v", EntryType::kFifo, kDrop},
      {"user.overlay.redirect", "/x", EntryType::kDirectory, kStrip},
      {"trusted.overlay.opaque", "y", EntryType::kDirectory, kStrip},
      {"trusted.overlay.redirect", "/x", EntryType::kFile, kStrip},
      {"trusted.overlayish", "v", EntryType::kFile, kRecord},
      {"trusted.a", "v", EntryType::kFile, kRecord},
      {"trusted.a", "v", EntryType::kSymlink, kDrop},
      {"trusted.", "v", EntryType::kFile, kDrop},
      {"security.selinux", "label", EntryType::kFile, kStrip},
      {"security.ima", "x", EntryType::kFile, kStrip},
      {"security.evm", "x", EntryType::kFile, kStrip},
      {"security.apparmor", "x", EntryType::kFile, kDrop},
      {"security.capability", Capability(2, 20), EntryType::kFile, kSet},
      {"security.capability", Capability(2, 19), EntryType::kFile, kRefuse},
      {"security.capability", Capability(2, 24), EntryType::kFile, kRefuse},
      {"security.capability", Capability(3, 24), EntryType::kFile, kDrop},
      {"security.capability", Capability(1, 12), EntryType::kFile, kDrop},
      {"security.capability", Capability(9, 20), EntryType::kFile, kRefuse},
      {"security.capability", "", EntryType::kFile, kRefuse},
      {"security.capability", Capability(2, 20), EntryType::kDirectory, kDrop},
      {"system.posix_acl_access", "x", EntryType::kFile, kSet},
      {"system.posix_acl_default", "x", EntryType::kDirectory, kSet},
      {"system.nfs4_acl", "x", EntryType::kFile, kDrop},
      {"btrfs.compression", "x", EntryType::kFile, kDrop},
  };
  for (const auto& test : kCases) {
    EXPECT_EQ(ClassifyXattr(test.name, test.value, test.type), test.want)
        << test.name << " of " << test.value.size() << " bytes";
  }
}

}  // namespace
}  // namespace davit::images::unpack
