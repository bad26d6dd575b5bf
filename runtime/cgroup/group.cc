#include "runtime/cgroup/group.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/cgroup/limits.h"
#include "runtime/cgroup/tree.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::runtime::cgroup {
namespace {

constexpr size_t kMaxFile = 64 * 1024;

// Enables controllers for the children of a v2 group. One that cannot be enabled here (EINVAL,
// ENOENT: cpu with real-time processes about, a threaded subtree) is missed by whoever sets a limit
// of it, and told there.
absl::Status EnableControllers(int group, const std::string& path,
                               const std::vector<std::string>& controllers) {
  DAVIT_ASSIGN_OR_RETURN(const std::string text,
                         sys::ReadFileAt(group, "cgroup.subtree_control", kMaxFile));
  const std::vector<std::string> enabled =
      absl::StrSplit(absl::StripAsciiWhitespace(text), ' ', absl::SkipEmpty());
  std::vector<std::string> missing;
  for (const std::string& controller : controllers) {
    if (std::find(enabled.begin(), enabled.end(), controller) == enabled.end()) {
      missing.push_back(absl::StrCat("+", controller));
    }
  }
  if (missing.empty()) return absl::OkStatus();
  if (WriteGroupFile(group, "cgroup.subtree_control", absl::StrJoin(missing, " ")) == 0) {
    return absl::OkStatus();
  }
  for (const std::string& controller : missing) {
    const int error = WriteGroupFile(group, "cgroup.subtree_control", controller);
    if (error == 0 || error == EINVAL || error == ENOENT || error == EOPNOTSUPP) continue;
    return sys::ErrnoStatus(
        error, absl::StrCat("enable cgroup controller ", controller.substr(1), " below ", path,
                            error == EBUSY ? " (it holds processes itself)" : ""));
  }
  return absl::OkStatus();
}

// A v1 cpuset takes no process while its cpus or mems are empty.
absl::Status FillCpuset(int group, int parent, const std::string& path) {
  for (const char* file : {"cpuset.cpus", "cpuset.mems"}) {
    DAVIT_ASSIGN_OR_RETURN(const std::string own, sys::ReadFileAt(group, file, kMaxFile));
    if (!absl::StripAsciiWhitespace(own).empty()) continue;
    DAVIT_ASSIGN_OR_RETURN(const std::string inherited, sys::ReadFileAt(parent, file, kMaxFile));
    const int error = WriteGroupFile(group, file, absl::StripAsciiWhitespace(inherited));
    if (error != 0) return sys::ErrnoStatus(error, absl::StrCat("fill ", path, "/", file));
  }
  return absl::OkStatus();
}

class CgroupfsGroups : public Groups {
 public:
  explicit CgroupfsGroups(Layout layout) : Groups(std::move(layout)) {}

  absl::Status Make(absl::string_view group) override {
    DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
    std::vector<std::string> made;
    auto undo = absl::MakeCleanup([&] {
      for (auto path = made.rbegin(); path != made.rend(); ++path) rmdir(path->c_str());
    });
    for (size_t i = 0; i < layout_.hierarchies.size(); ++i) {
      DAVIT_RETURN_IF_ERROR(sys::Annotate(MakeIn(static_cast<int>(i), group, made),
                                          absl::StrCat("make cgroup ", group)));
    }
    std::move(undo).Cancel();
    return absl::OkStatus();
  }

  absl::Status MakeParent(absl::string_view group) override {
    DAVIT_RETURN_IF_ERROR(Make(group));
    if (!layout_.IsPureV2()) return absl::OkStatus();
    const int unified = layout_.Unified();
    DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd directory, Open(unified, group));
    return EnableControllers(directory.get(), layout_.Directory(unified, group),
                             layout_.hierarchies[static_cast<size_t>(unified)].controllers);
  }

  absl::Status Apply(absl::string_view group, std::span<const Write> writes) override {
    DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
    return ExecuteWrites(layout_, group, writes);
  }

  absl::Status Update(absl::string_view group, const spec::LinuxResources& resources) override;

  absl::StatusOr<CurrentLimits> ReadLimits(absl::string_view group) const override {
    DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
    return ReadCurrentLimits(layout_, group);
  }

  absl::Status KillAll(absl::string_view group, absl::Time deadline) override {
    DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
    auto list = [&](std::set<pid_t>& pids) { return List(group, pids); };
    std::set<pid_t> present;
    DAVIT_RETURN_IF_ERROR(list(present));
    if (present.count(getpid()) != 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("kill all processes of cgroup ", group, ": the caller is one of them"));
    }
    if (const int unified = layout_.Unified(); unified >= 0) {
      DAVIT_RETURN_IF_ERROR(KillUnified(layout_.Directory(unified, group), deadline));
      if (layout_.hierarchies.size() == 1) return absl::OkStatus();
    }
    // What was put into v1 groups only.
    const int freezer = layout_.Find("freezer");
    return sys::Annotate(
        KillListed(list, freezer >= 0 ? layout_.Directory(freezer, group) : "", deadline),
        absl::StrCat("kill cgroup ", group));
  }

  absl::Status Remove(absl::string_view group, absl::Time deadline) override {
    DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
    absl::Status first;
    for (size_t i = 0; i < layout_.hierarchies.size(); ++i) {
      first.Update(RemoveGroups(layout_.Directory(static_cast<int>(i), group), deadline));
    }
    return first;
  }

  absl::StatusOr<std::vector<pid_t>> Processes(absl::string_view group) const override {
    DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
    if (!Exists(group)) {
      return absl::NotFoundError(absl::StrCat("list cgroup ", group, ": there is none"));
    }
    std::set<pid_t> pids;
    DAVIT_RETURN_IF_ERROR(List(group, pids));
    return std::vector<pid_t>(pids.begin(), pids.end());
  }

  absl::Status Enter(absl::string_view group, pid_t pid) override {
    for (size_t i = 0; i < layout_.hierarchies.size(); ++i) {
      DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd directory, Open(static_cast<int>(i), group));
      const int error = WriteGroupFile(directory.get(), "cgroup.procs", absl::StrCat(pid));
      if (error != 0) {
        return sys::ErrnoStatus(error, absl::StrCat("move process ", pid, " into cgroup ",
                                                    layout_.Directory(static_cast<int>(i), group)));
      }
    }
    return absl::OkStatus();
  }

  absl::StatusOr<sys::UniqueFd> Open(int hierarchy, absl::string_view group) const override {
    DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
    return sys::OpenDirAt(AT_FDCWD, layout_.Directory(hierarchy, group));
  }

  bool Exists(absl::string_view group) const override {
    if (!CheckGroupPath(group).ok()) return false;
    for (size_t i = 0; i < layout_.hierarchies.size(); ++i) {
      if (access(layout_.Directory(static_cast<int>(i), group).c_str(), F_OK) == 0) return true;
    }
    return false;
  }

 private:
  absl::Status List(absl::string_view group, std::set<pid_t>& pids) const {
    for (size_t i = 0; i < layout_.hierarchies.size(); ++i) {
      absl::Status status = CollectProcesses(layout_.Directory(static_cast<int>(i), group), pids);
      if (!status.ok() && !absl::IsNotFound(status)) return status;
    }
    return absl::OkStatus();
  }

  absl::Status MakeIn(int index, absl::string_view group, std::vector<std::string>& made);

  absl::Status CheckUsageBefore(absl::string_view group,
                                const spec::LinuxResources& resources) const;
};

absl::Status CgroupfsGroups::MakeIn(int index, absl::string_view group,
                                    std::vector<std::string>& made) {
  const Hierarchy& hierarchy = layout_.hierarchies[static_cast<size_t>(index)];
  const bool enable = hierarchy.is_v2 && layout_.IsPureV2();
  const bool cpuset = !hierarchy.is_v2 && layout_.Find("cpuset") == index;
  std::string path = hierarchy.mount_point;
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd parent, sys::OpenDirAt(AT_FDCWD, path));
  const std::vector<std::string> names = absl::StrSplit(group.substr(1), '/');
  for (size_t i = 0; i < names.size(); ++i) {
    if (enable) {
      DAVIT_RETURN_IF_ERROR(EnableControllers(parent.get(), path, hierarchy.controllers));
    }
    path = absl::StrCat(path, "/", names[i]);
    bool is_new = mkdirat(parent.get(), names[i].c_str(), 0755) == 0;
    if (!is_new && errno != EEXIST) return sys::ErrnoStatus(errno, absl::StrCat("mkdir ", path));
    if (is_new) made.push_back(path);
    DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd child, sys::OpenDirAt(parent.get(), names[i]));
    if (cpuset) {
      DAVIT_RETURN_IF_ERROR(FillCpuset(child.get(), parent.get(), path));
      if (is_new || i + 1 == names.size()) {
        const int error = WriteGroupFile(child.get(), "cgroup.clone_children", "1");
        if (error != 0) {
          return sys::ErrnoStatus(error, absl::StrCat("set clone_children of ", path));
        }
      }
    }
    parent = std::move(child);
  }
  return absl::OkStatus();
}

absl::Status CgroupfsGroups::CheckUsageBefore(absl::string_view group,
                                              const spec::LinuxResources& resources) const {
  if (!resources.memory.has_value() || !resources.memory->check_before_update.value_or(false)) {
    return absl::OkStatus();
  }
  const int64_t limit = resources.memory->limit.value_or(0);
  const int memory = layout_.Find("memory");
  if (limit <= 0 || memory < 0 || !layout_.hierarchies[static_cast<size_t>(memory)].is_v2) {
    return absl::OkStatus();
  }
  DAVIT_ASSIGN_OR_RETURN(
      const std::string text,
      sys::ReadFileAt(AT_FDCWD, layout_.Directory(memory, absl::StrCat(group, "/memory.current")),
                      kMaxFile));
  int64_t usage = 0;
  if (absl::SimpleAtoi(text, &usage) && usage > limit) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "set the memory limit of cgroup ", group, " to ", limit, ": ", usage, " bytes are in use"));
  }
  return absl::OkStatus();
}

absl::Status CgroupfsGroups::Update(absl::string_view group,
                                    const spec::LinuxResources& resources) {
  DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
  if (!resources.devices.empty()) {
    return absl::InvalidArgumentError("update resources: device rules cannot be updated");
  }
  DAVIT_ASSIGN_OR_RETURN(const CurrentLimits current, ReadCurrentLimits(layout_, group));
  DAVIT_ASSIGN_OR_RETURN(const std::vector<Write> writes,
                         CompileResources(resources, layout_, current));
  DAVIT_RETURN_IF_ERROR(CheckUsageBefore(group, resources));
  std::vector<Write> undo;
  absl::Status status = ExecuteWrites(layout_, group, writes, &undo);
  if (status.ok()) return status;
  // The first error is what the caller has to know. An undo that fails leaves the others undone as
  // far as the kernel lets them be.
  std::string failures;
  for (const Write& write : undo) {
    const absl::Status undone = ExecuteWrites(layout_, group, {&write, 1});
    if (!undone.ok()) absl::StrAppend(&failures, "; undo: ", undone.message());
  }
  return failures.empty() ? status
                          : absl::Status(status.code(), absl::StrCat(status.message(), failures));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Groups>> Groups::Create(Driver driver, Layout layout) {
  if (layout.hierarchies.empty()) {
    return absl::FailedPreconditionError("cgroups: no hierarchy is mounted");
  }
  switch (driver) {
    case Driver::kCgroupfs:
      return std::make_unique<CgroupfsGroups>(std::move(layout));
  }
  return absl::InvalidArgumentError("cgroups: unknown driver");
}

}  // namespace davit::runtime::cgroup
