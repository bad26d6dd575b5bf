#ifndef DAVIT_RUNTIME_CGROUP_LIMITS_H_
#define DAVIT_RUNTIME_CGROUP_LIMITS_H_

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/cgroup/layout.h"
#include "runtime/cgroup/resources.h"

// Limits of groups that exist: reading, writing, and undoing writes. Thread-safe.
namespace davit::runtime::cgroup {

// Executes the writes in order. If `undo` is not null, it receives for each write that was done the
// write that takes it back, the latest first.
absl::Status ExecuteWrites(const Layout& layout, absl::string_view group,
                           std::span<const Write> writes, std::vector<Write>* undo = nullptr);

// The value to write to `file` so that the effect of writing `written` is undone, if the file read
// `before`. Pure. Knows files of one value, of one value for each device ("8:0 rbps=1"), and the
// few that read otherwise than they are written.
std::string UndoValue(absl::string_view file, absl::string_view written, absl::string_view before);

absl::StatusOr<CurrentLimits> ReadCurrentLimits(const Layout& layout, absl::string_view group);

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_LIMITS_H_
