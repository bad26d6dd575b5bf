#ifndef DAVIT_RUNTIME_CGROUP_TREE_H_
#define DAVIT_RUNTIME_CGROUP_TREE_H_

#include <sys/types.h>

#include <functional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "runtime/sys/unique_fd.h"

// A group and those below it in one hierarchy: the steps that Groups (group.h) repeats for each
// hierarchy. `directory` is the host path of a group. Thread-safe.
namespace davit::runtime::cgroup {

// One write(2) to a cgroup file; returns the errno, 0 on success.
int WriteGroupFile(int directory, const std::string& file, absl::string_view value);

// Calls `visit` for every group below `directory`, children before their parents, and then for
// `directory` itself. Groups that vanish meanwhile are passed over. Stops at the first
// failure. NotFound if `directory` is missing.
absl::Status VisitGroups(
    const std::string& directory,
    const std::function<absl::Status(int group, int parent, const std::string& name)>& visit);

// Adds the processes of the group and its descendants. NotFound if it is missing.
absl::Status CollectProcesses(const std::string& directory, std::set<pid_t>& pids);

// Removes the group and its descendants; a missing one is success.
absl::Status RemoveGroups(const std::string& directory, absl::Time deadline);

// Waits until cgroup.events of a v2 group says that no process is left in it or below.
absl::Status WaitUnpopulated(int group, absl::Time deadline);

// Kills every process of a v2 group and waits for it to be empty.
absl::Status KillUnified(const std::string& directory, absl::Time deadline);

// Kills what `list` names until it names nothing more, freezing the v1 freezer group `freezer`
// ("": none) while signals are sent so that nothing escapes by forking.
absl::Status KillListed(const std::function<absl::Status(std::set<pid_t>&)>& list,
                        const std::string& freezer, absl::Time deadline);

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_TREE_H_
