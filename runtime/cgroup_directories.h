#ifndef DAVIT_RUNTIME_CGROUP_DIRECTORIES_H_
#define DAVIT_RUNTIME_CGROUP_DIRECTORIES_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/cgroup/layout.h"
#include "runtime/plan/compile.h"
#include "runtime/spec/spec.h"

namespace davit::runtime {

// A container's group in every hierarchy of the machine, with its limits, as the plan compiler
// takes them. `group` is the path within each hierarchy ("/davit/c1"). Pure and thread-safe; errors
// are cgroup::CompileResources' and CompileDeviceProgram's.
absl::StatusOr<std::vector<plan::CgroupDirectory>> CgroupDirectories(
    const cgroup::Layout& layout, const std::string& group, const spec::LinuxResources& resources);

}  // namespace davit::runtime

#endif  // DAVIT_RUNTIME_CGROUP_DIRECTORIES_H_
