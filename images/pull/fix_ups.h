#ifndef DAVIT_IMAGES_PULL_FIX_UPS_H_
#define DAVIT_IMAGES_PULL_FIX_UPS_H_

#include <vector>

#include "absl/status/status.h"
#include "images/unpack/result.h"

namespace davit::images {

// Finishes an unpacked layer with what only the layers below can tell (image-spec layer.md):
// * a directory that the layer uses but does not describe takes owner, mode and extended attributes
//   from the nearest lower layer that has it; it stays 0755 and root's if none has;
// * a hard link to a file of a lower layer: the file is copied up, sharing blocks where the file
//   system can, and linked.
// `staging` is the layer's top directory, `lowers` are those below it, bottom first; all are
// readable directory descriptors that nobody else changes. The paths come from a process that may
// be compromised: everything in `staging` is resolved beneath it, no link followed out.
// FailedPrecondition: a link whose target no layer holds, or that is a directory.
absl::Status ApplyFixUps(int staging, const std::vector<int>& lowers,
                         const unpack::FixUps& fix_ups);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_FIX_UPS_H_
