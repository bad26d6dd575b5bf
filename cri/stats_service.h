#ifndef DAVIT_CRI_STATS_SERVICE_H_
#define DAVIT_CRI_STATS_SERVICE_H_

#include <string>
#include <vector>

#include "cri/call.h"
#include "runtime/cgroup/layout.h"
#include "sandbox/manager.h"

namespace davit::cri {

// The statistics RPCs of RuntimeService: of one container, of one pod, and the lists (running
// containers, ready pods) with their streamed forms. Counters are read when asked for, never
// cached; what a writable layer takes is measured at most every ten seconds. `manager` must outlive
// the methods; `filesystem` is the mount point that writable layers are reported on. Thread-safe.
std::vector<Method> StatsMethods(sandbox::Manager* manager, runtime::cgroup::Layout layout,
                                 std::string filesystem);

}  // namespace davit::cri

#endif  // DAVIT_CRI_STATS_SERVICE_H_
