#ifndef DAVIT_CRI_RESOURCES_H_
#define DAVIT_CRI_RESOURCES_H_

#include <optional>

#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"

namespace runtime::v1 {
class LinuxContainerResources;
}

namespace davit::cri {

// CRI's limits as OCI's, without device rules. 0 is "not set" there. A memory limit without a swap
// limit allows no swap beyond it, as the peers do. Huge page limits of sizes that this machine does
// not have are left out: the kubelet sends every size it knows. InvalidArgument for values out of
// the kernel's ranges. Reads /sys/kernel/mm/hugepages; thread-safe.
absl::StatusOr<runtime::spec::LinuxResources> TranslateResources(
    const ::runtime::v1::LinuxContainerResources& resources);

// The adjustment that a container gets: what is asked for, not below `floor`. InvalidArgument
// outside -1000 to 1000.
absl::StatusOr<int> TranslateOomScoreAdj(int64_t asked, int floor);

// `update` over `current`, field by field: what the update does not set stays
// (UpdateContainerResources changes what it names).
void MergeResources(const ::runtime::v1::LinuxContainerResources& update,
                    ::runtime::v1::LinuxContainerResources* current);

}  // namespace davit::cri

#endif  // DAVIT_CRI_RESOURCES_H_
