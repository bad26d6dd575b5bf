#ifndef DAVIT_IMAGES_UNPACK_XATTR_POLICY_H_
#define DAVIT_IMAGES_UNPACK_XATTR_POLICY_H_

#include "absl/strings/string_view.h"
#include "images/unpack/tar_entry.h"

namespace davit::images::unpack {

enum class XattrAction {
  kSet,     // the unpacker sets it
  kRecord,  // needs CAP_SYS_ADMIN: the daemon sets it
  kStrip,   // must never come from an image; nobody misses it
  kDrop,    // cannot be kept here; worth a warning
  kRefuse,  // malformed: the layer is refused
};

// What happens to one extended attribute of an image. Pure.
//  * trusted.overlay.*, user.overlay.*: stripped: overlayfs would obey them.
//  * security.selinux, .ima, .evm: stripped: they are the host's to set.
//  * security.capability: kept in revision 2 on files; revision 1 (which the kernel takes no more)
//  and
//    3 (which names a user namespace) are dropped; a wrong size is refused.
//  * system.posix_acl_*: kept. user.*: kept on files and directories, which alone may have it.
//  * other trusted.*: recorded. Anything else is dropped.
XattrAction ClassifyXattr(absl::string_view name, absl::string_view value, EntryType type);

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_XATTR_POLICY_H_
