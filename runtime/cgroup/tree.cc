#include "runtime/cgroup/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"

namespace davit::runtime::cgroup {
namespace {

// A container with a writable cgroup mount can nest groups; each level costs a descriptor here.
constexpr int kMaxDepth = 256;
constexpr size_t kMaxProcsFile = 64 << 20;

int PollTimeout(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return -1;
  const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now() + absl::Microseconds(999));
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
}

absl::StatusOr<std::vector<std::string>> Children(int group) {
  const int fd = openat(group, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return sys::ErrnoStatus(errno, "open a cgroup");
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(fd), closedir);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(stream.get())) {
    if (entry->d_type != DT_DIR) continue;
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  return names;
}

using Visitor = std::function<absl::Status(int, int, const std::string&)>;

absl::Status VisitBelow(int group, const Visitor& visit, int depth) {
  if (depth > kMaxDepth) {
    return absl::ResourceExhaustedError(
        absl::StrCat("walk cgroups: nested deeper than ", kMaxDepth, " levels"));
  }
  const auto children = Children(group);
  if (!children.ok()) {
    return absl::IsNotFound(children.status()) ? absl::OkStatus() : children.status();
  }
  for (const std::string& name : *children) {
    const auto child = sys::OpenDirAt(group, name);
    if (absl::IsNotFound(child.status())) continue;
    DAVIT_RETURN_IF_ERROR(child.status());
    DAVIT_RETURN_IF_ERROR(VisitBelow(child->get(), visit, depth + 1));
    DAVIT_RETURN_IF_ERROR(visit(child->get(), group, name));
  }
  return absl::OkStatus();
}

// Adds the processes of one group. A group being removed reads as ENODEV.
absl::Status AddProcesses(int group, std::set<pid_t>& pids) {
  const auto file = sys::OpenAt(group, "cgroup.procs", O_RDONLY);
  if (!file.ok()) return absl::IsNotFound(file.status()) ? absl::OkStatus() : file.status();
  const auto text = sys::ReadFd(file->get(), kMaxProcsFile, "cgroup.procs");
  if (!text.ok()) {
    struct stat st;
    // A threaded v2 group has no list of its own (EOPNOTSUPP): its threads belong to processes of
    // the parent.
    if (absl::IsUnimplemented(text.status()) || fstat(group, &st) != 0 || st.st_nlink == 0) {
      return absl::OkStatus();
    }
    return text.status();
  }
  for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    int pid = 0;
    // 0 stands for a process outside of our pid namespace.
    if (absl::SimpleAtoi(line, &pid) && pid > 0) pids.insert(pid);
  }
  return absl::OkStatus();
}

// Waits for what keeps a group busy: its processes to exit, or else for the kernel's own clean-up
// after the last exit, which has no event on v1.
void WaitForBusyGroup(int group, absl::Duration& pause, absl::Time deadline) {
  std::set<pid_t> pids;
  (void)AddProcesses(group, pids);
  for (const pid_t pid : pids) {
    const auto pidfd = sys::PidfdOpen(pid);
    if (!pidfd.ok()) continue;
    pollfd entry{pidfd->get(), POLLIN, 0};
    (void)poll(&entry, 1, PollTimeout(deadline));
    return;
  }
  absl::SleepFor(std::min(pause, std::max(deadline - absl::Now(), absl::ZeroDuration())));
  pause = std::min(pause * 2, absl::Milliseconds(20));
}

absl::Status RemoveGroup(int group, int parent, const std::string& name, absl::Time deadline) {
  absl::Duration pause = absl::Microseconds(200);
  for (;;) {
    if (unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) {
      return absl::OkStatus();
    }
    if (errno != EBUSY) return sys::ErrnoStatus(errno, absl::StrCat("remove cgroup ", name));
    if (absl::Now() >= deadline) {
      std::set<pid_t> pids;
      (void)AddProcesses(group, pids);
      return absl::UnavailableError(absl::StrCat("remove cgroup ", name, ": it is still in use",
                                                 pids.empty() ? "" : " by process ",
                                                 absl::StrJoin(pids, ", ")));
    }
    WaitForBusyGroup(group, pause, deadline);
  }
}

}  // namespace

int WriteGroupFile(int directory, const std::string& file, absl::string_view value) {
  int fd;
  do {
    fd = openat(directory, file.c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return errno;
  const sys::UniqueFd owned(fd);
  ssize_t n;
  do {
    n = write(fd, value.data(), value.size());
  } while (n < 0 && errno == EINTR);
  if (n < 0) return errno;
  return static_cast<size_t>(n) == value.size() ? 0 : EIO;
}

absl::Status VisitGroups(const std::string& directory, const Visitor& visit) {
  const size_t slash = directory.rfind('/');
  const std::string name = directory.substr(slash + 1);
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd parent,
                         sys::OpenDirAt(AT_FDCWD, directory.substr(0, slash)));
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd group, sys::OpenDirAt(parent.get(), name));
  DAVIT_RETURN_IF_ERROR(VisitBelow(group.get(), visit, 0));
  return visit(group.get(), parent.get(), name);
}

absl::Status CollectProcesses(const std::string& directory, std::set<pid_t>& pids) {
  return VisitGroups(directory,
                     [&](int group, int, const std::string&) { return AddProcesses(group, pids); });
}

absl::Status RemoveGroups(const std::string& directory, absl::Time deadline) {
  const absl::Status status =
      VisitGroups(directory, [&](int group, int parent, const std::string& name) {
        return RemoveGroup(group, parent, name, deadline);
      });
  return absl::IsNotFound(status) ? absl::OkStatus() : sys::Annotate(status, directory);
}

// The kernel holds an event back for 10 ms after the one before, and forgets it with a group that
// somebody else removes meanwhile (cgroup_file_notify): nobody would be woken then.
constexpr int kLostEventMs = 20;

absl::Status WaitUnpopulated(int group, absl::Time deadline) {
  const auto events = sys::OpenAt(group, "cgroup.events", O_RDONLY);
  if (absl::IsNotFound(events.status())) return absl::OkStatus();
  DAVIT_RETURN_IF_ERROR(events.status());
  for (;;) {
    // Both fail (ENODEV) once the group is removed.
    if (lseek(events->get(), 0, SEEK_SET) != 0) {
      if (errno == ENODEV) return absl::OkStatus();
      return sys::ErrnoStatus(errno, "cgroup.events");
    }
    const auto text = sys::ReadFd(events->get(), 4096, "cgroup.events");
    if (!text.ok() || absl::StrContains(*text, "populated 0")) return absl::OkStatus();
    pollfd entry{events->get(), POLLPRI, 0};
    const int ready = poll(&entry, 1, std::min(PollTimeout(deadline), kLostEventMs));
    if (ready < 0 && errno != EINTR) return sys::ErrnoStatus(errno, "poll cgroup.events");
    if (ready == 0 && absl::Now() >= deadline) {
      return absl::DeadlineExceededError("processes that were killed have not exited");
    }
  }
}

absl::Status KillUnified(const std::string& directory, absl::Time deadline) {
  const auto group = sys::OpenDirAt(AT_FDCWD, directory);
  if (absl::IsNotFound(group.status())) return absl::OkStatus();
  DAVIT_RETURN_IF_ERROR(group.status());
  const int error = WriteGroupFile(group->get(), "cgroup.kill", "1");
  if (error == ENODEV) return absl::OkStatus();
  if (error != 0) return sys::ErrnoStatus(error, absl::StrCat("kill cgroup ", directory));
  return sys::Annotate(WaitUnpopulated(group->get(), deadline),
                       absl::StrCat("kill cgroup ", directory));
}

absl::Status KillListed(const std::function<absl::Status(std::set<pid_t>&)>& list,
                        const std::string& freezer, absl::Time deadline) {
  sys::UniqueFd freezer_directory;
  if (!freezer.empty()) {
    if (auto directory = sys::OpenDirAt(AT_FDCWD, freezer); directory.ok()) {
      freezer_directory = *std::move(directory);
    }
  }
  auto thaw = [&] {
    if (freezer_directory.ok()) {
      (void)WriteGroupFile(freezer_directory.get(), "freezer.state", "THAWED");
    }
  };
  for (;;) {
    if (freezer_directory.ok()) {
      // From here on what forks is frozen at birth; a signal is acted on after the thaw.
      (void)WriteGroupFile(freezer_directory.get(), "freezer.state", "FROZEN");
    }
    auto thaw_on_return = absl::MakeCleanup(thaw);
    std::map<pid_t, sys::UniqueFd> killed;
    for (bool found = true; found;) {
      found = false;
      std::set<pid_t> before;
      DAVIT_RETURN_IF_ERROR(list(before));
      if (before.count(getpid()) != 0) {
        return absl::FailedPreconditionError(
            "kill all processes of a cgroup: the calling process is one of them");
      }
      std::map<pid_t, sys::UniqueFd> opened;
      for (const pid_t pid : before) {
        if (killed.count(pid) != 0) continue;
        if (auto pidfd = sys::PidfdOpen(pid); pidfd.ok()) opened[pid] = *std::move(pidfd);
      }
      // A number may have been reused between the list and the open: only what is listed after the
      // open, too, is known to be meant.
      std::set<pid_t> after;
      DAVIT_RETURN_IF_ERROR(list(after));
      for (auto& [pid, pidfd] : opened) {
        if (after.count(pid) == 0) continue;
        DAVIT_RETURN_IF_ERROR(sys::KillPidfd(pidfd.get(), SIGKILL));
        killed[pid] = std::move(pidfd);
        found = true;
      }
    }
    std::move(thaw_on_return).Invoke();
    if (killed.empty()) {
      std::set<pid_t> rest;
      DAVIT_RETURN_IF_ERROR(list(rest));
      if (rest.empty()) return absl::OkStatus();
    }
    for (const auto& [pid, pidfd] : killed) {
      pollfd entry{pidfd.get(), POLLIN, 0};
      while (poll(&entry, 1, PollTimeout(deadline)) < 0 && errno == EINTR) {
      }
      if ((entry.revents & POLLIN) == 0) {
        return absl::DeadlineExceededError(
            absl::StrCat("process ", pid, " was killed and has not exited"));
      }
    }
    if (absl::Now() >= deadline) {
      return absl::DeadlineExceededError("kill all processes of a cgroup: new ones keep appearing");
    }
  }
}

}  // namespace davit::runtime::cgroup
