#ifndef DAVIT_RUNTIME_PLAN_MOUNT_OPTIONS_H_
#define DAVIT_RUNTIME_PLAN_MOUNT_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace davit::runtime::plan {

// The options of a mount (runtime-spec config.md, "Linux mount options"), sorted by who takes them.
struct MountOptions {
  bool bind = false;
  bool recursive = false;  // rbind
  // MOUNT_ATTR_* of the mount, as mount_setattr takes them.
  uint64_t set = 0;
  uint64_t clear = 0;
  // The same for the whole tree beneath it (rro, rnosuid, ...).
  uint64_t recursive_set = 0;
  uint64_t recursive_clear = 0;
  // MS_PRIVATE, MS_SLAVE, MS_SHARED or MS_UNBINDABLE, with MS_REC; 0 = not asked for.
  uint64_t propagation = 0;
  bool idmap = false;
  bool recursive_idmap = false;
  // For the file system: "mode=755", "newinstance", "sync".
  std::vector<std::string> filesystem;
};

// Later options win over earlier ones. Unknown ones are the file system's. InvalidArgument for
// those that are known and not supported (remount, tmpcopyup).
absl::StatusOr<MountOptions> ParseMountOptions(const std::vector<std::string>& options);

// Every option that ParseMountOptions knows itself, sorted: for the `features` document.
std::vector<std::string> KnownMountOptions();

}  // namespace davit::runtime::plan

#endif  // DAVIT_RUNTIME_PLAN_MOUNT_OPTIONS_H_
