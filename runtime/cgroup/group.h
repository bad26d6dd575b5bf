#ifndef DAVIT_RUNTIME_CGROUP_GROUP_H_
#define DAVIT_RUNTIME_CGROUP_GROUP_H_

#include <sys/types.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/cgroup/layout.h"
#include "runtime/cgroup/resources.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/unique_fd.h"

namespace davit::runtime::cgroup {

// Who makes the groups. Explicit configuration, never detected: the kubelet must use the same.
enum class Driver {
  kCgroupfs,  // directories in the cgroup file systems
};

// Operations of the daemon on groups that are davit's own (man 7 cgroups). A group path ("/a/b") is
// the same in every hierarchy of the layout; each operation covers all of them. Paths are checked
// by CheckGroupPath and refused with InvalidArgument. Nothing outside the given path is changed,
// except that Make enables v2 controllers and fills v1 cpusets in the parents that it needs.
// Thread-safe: implementations hold no mutable state; operations on one path at the same time are
// the caller's to serialize.
class Groups {
 public:
  virtual ~Groups() = default;

  static absl::StatusOr<std::unique_ptr<Groups>> Create(Driver driver, Layout layout);

  const Layout& layout() const { return layout_; }

  // Makes the group and its missing parents in every hierarchy; existing ones are kept. In pure v2
  // all controllers are enabled down the path, but not in the group itself (a leaf may hold
  // processes). On v1 the cpusets on the path that are empty get their parents' cpus and mems, and
  // cgroup.clone_children is set in `group` and the parents made here, so that groups made below
  // start filled.
  // On failure the directories that this call made are removed again.
  virtual absl::Status Make(absl::string_view group) = 0;

  // Makes a group that others are made below: as Make, and in pure v2 the group's own children have
  // all controllers as well. It must hold no processes itself then (man 7 cgroups).
  virtual absl::Status MakeParent(absl::string_view group) = 0;

  // Executes compiled writes in order, stopping at the first that fails against its flags.
  virtual absl::Status Apply(absl::string_view group, std::span<const Write> writes) = 0;

  // Changes limits of a live group: all of them or none. The order of the writes follows from what
  // is set now; if one fails those already done are undone from the values read before, and the
  // first error is returned. With memory.check_before_update a limit below the present usage is
  // ResourceExhausted (v2; v1's kernel refuses it by itself).
  // Device rules are InvalidArgument (v2: see ReplaceDeviceProgram).
  virtual absl::Status Update(absl::string_view group, const spec::LinuxResources& resources) = 0;

  // What is limited now.
  virtual absl::StatusOr<CurrentLimits> ReadLimits(absl::string_view group) const = 0;

  // SIGKILLs every process of the group and its descendants: by cgroup.kill where the group exists
  // in v2, else by freezing the v1 group while its processes are signalled. Returns when none is
  // left but zombies that their parents have to reap, or DeadlineExceeded. A missing group is
  // success.
  virtual absl::Status KillAll(absl::string_view group, absl::Time deadline) = 0;

  // Removes the group and all groups below it, in every hierarchy. A missing group is success. The
  // kernel says EBUSY for a moment after the last exit; this waits for it until the deadline, on
  // events where the kernel has one. Unavailable names what is still busy, by process ids.
  virtual absl::Status Remove(absl::string_view group, absl::Time deadline) = 0;

  // Ids (in the caller's pid namespace) of the processes in the group and its descendants, sorted,
  // each once. NotFound if the group exists nowhere.
  virtual absl::StatusOr<std::vector<pid_t>> Processes(absl::string_view group) const = 0;

  // Moves a process (all threads) into the group in every hierarchy.
  virtual absl::Status Enter(absl::string_view group, pid_t pid) = 0;

  // O_PATH directory of the group in one hierarchy.
  virtual absl::StatusOr<sys::UniqueFd> Open(int hierarchy, absl::string_view group) const = 0;

  // True if the group's directory is there in any hierarchy.
  virtual bool Exists(absl::string_view group) const = 0;

 protected:
  explicit Groups(Layout layout) : layout_(std::move(layout)) {}
  const Layout layout_;
};

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_GROUP_H_
