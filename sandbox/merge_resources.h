#ifndef DAVIT_SANDBOX_MERGE_RESOURCES_H_
#define DAVIT_SANDBOX_MERGE_RESOURCES_H_

#include "runtime/spec/spec.h"

namespace davit::sandbox {

// What a container's limits are after an update: the values that `update` sets, and those of
// `current` for everything it leaves out. Device rules are not changed by an update. Pure.
runtime::spec::LinuxResources MergeResources(const runtime::spec::LinuxResources& current,
                                             const runtime::spec::LinuxResources& update);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_MERGE_RESOURCES_H_
