#include "runtime/cgroup_directories.h"

#include <utility>

#include "runtime/cgroup/device_bpf.h"
#include "runtime/cgroup/resources.h"
#include "runtime/sys/errno.h"

namespace davit::runtime {
namespace {

// What programs inside expect to find below /sys/fs/cgroup is what the host calls it.
std::string LastComponent(const std::string& path) { return path.substr(path.rfind('/') + 1); }

}  // namespace

absl::StatusOr<std::vector<plan::CgroupDirectory>> CgroupDirectories(
    const cgroup::Layout& layout, const std::string& group, const spec::LinuxResources& resources) {
  spec::LinuxResources complete = resources;
  for (spec::DeviceCgroupRule& rule : cgroup::DefaultDeviceRules()) {
    complete.devices.push_back(std::move(rule));
  }
  DAVIT_ASSIGN_OR_RETURN(const auto writes, cgroup::CompileResources(complete, layout));
  std::vector<plan::CgroupDirectory> directories;
  for (size_t i = 0; i < layout.hierarchies.size(); ++i) {
    const cgroup::Hierarchy& hierarchy = layout.hierarchies[i];
    plan::CgroupDirectory directory;
    directory.path = layout.Directory(static_cast<int>(i), group);
    directory.unified = hierarchy.is_v2;
    directory.mount_name = LastComponent(hierarchy.mount_point);
    directory.controllers = hierarchy.controllers;
    directory.named = hierarchy.name;
    for (const cgroup::Write& write : writes) {
      if (write.hierarchy != static_cast<int>(i)) continue;
      directory.writes.push_back({write.file, write.value, write.flags});
    }
    if (hierarchy.is_v2 && layout.Find("devices") < 0) {
      DAVIT_ASSIGN_OR_RETURN(directory.device_program,
                             cgroup::CompileDeviceProgram(complete.devices));
    }
    directories.push_back(std::move(directory));
  }
  return directories;
}

}  // namespace davit::runtime
