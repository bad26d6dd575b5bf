#include "sandbox/supervisor/cgroup_watch.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"

namespace davit::sandbox {
namespace {

constexpr char kV1Control[] = "memory.oom_control";
constexpr char kV2Events[] = "memory.events";
constexpr size_t kSmallFile = 64 * 1024;

bool Has(const sys::UniqueFd& directory, const char* file) {
  return faccessat(directory.get(), file, F_OK, 0) == 0;
}

// The number after "<key> " at the start of a line.
uint64_t Field(absl::string_view text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.size() <= key.size() || line[key.size()] != ' ') continue;
    if (line.substr(0, key.size()) != key) continue;
    uint64_t value;
    if (absl::SimpleAtoi(line.substr(key.size() + 1), &value)) return value;
  }
  return 0;
}

bool HasEnded(int pidfd) {
  pollfd end{pidfd, POLLIN, 0};
  return poll(&end, 1, 0) == 1;
}

// The process ids in a group; none of a group that is gone.
absl::StatusOr<std::set<pid_t>> Members(int directory) {
  auto text = sys::ReadFileAt(directory, "cgroup.procs", 16 * 1024 * 1024);
  std::set<pid_t> members;
  if (absl::IsNotFound(text.status())) return members;
  if (!text.ok()) return text.status();
  for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
    int32_t pid;
    if (absl::SimpleAtoi(line, &pid) && pid > 0) members.insert(pid);
  }
  return members;
}

// One by one, for hierarchies without cgroup.kill: repeated, since a fork may outrun the list. A
// number may pass to a stranger at any time, so it is held by a pidfd before the group is asked
// again whether it is a member.
absl::Status KillMembers(int directory) {
  DAVIT_ASSIGN_OR_RETURN(std::set<pid_t> listed, Members(directory));
  for (int attempt = 0; attempt < 100 && !listed.empty(); ++attempt) {
    std::map<pid_t, sys::UniqueFd> held;
    for (const pid_t pid : listed) {
      auto pidfd = sys::PidfdOpen(pid);
      if (pidfd.ok()) held[pid] = *std::move(pidfd);
      if (!absl::IsResourceExhausted(pidfd.status())) continue;
      if (held.empty()) return pidfd.status();
      break;  // the others next time
    }
    DAVIT_ASSIGN_OR_RETURN(listed, Members(directory));
    bool alive = false;
    for (const auto& [pid, pidfd] : held) {
      if (!listed.contains(pid)) continue;
      alive = alive || !HasEnded(pidfd.get());
      sys::KillPidfd(pidfd.get(), SIGKILL).IgnoreError();
    }
    if (!alive) return absl::OkStatus();  // what is left is dying
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status KillCgroup(int directory) {
  const absl::Status status = sys::WriteExistingAt(directory, "cgroup.kill", "1");
  if (!absl::IsNotFound(status)) return status;
  return KillMembers(directory);
}

void CgroupWatch::Open(const std::vector<std::string>& directories) {
  for (const std::string& path : directories) {
    auto directory = sys::OpenDirAt(AT_FDCWD, path);
    if (!directory.ok()) continue;
    const bool kills = Has(*directory, "cgroup.kill");
    // Later directories are deeper, or in another hierarchy.
    const bool v1 = Has(*directory, kV1Control);
    if (v1 || Has(*directory, kV2Events)) {
      memory_.reset(fcntl(directory->get(), F_DUPFD_CLOEXEC, 3));
      memory_is_v1_ = v1;
    }
    if (kills || !members_.ok() || !Has(members_, "cgroup.kill")) members_ = *std::move(directory);
  }
}

absl::Status CgroupWatch::Start(std::function<void()> on_oom) {
  if (!memory_.ok()) return absl::OkStatus();
  uint32_t events = EPOLLIN;
  if (memory_is_v1_) {
    event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event_.ok()) return sys::ErrnoStatus(errno, "watch for OOM: eventfd");
    DAVIT_ASSIGN_OR_RETURN(oom_control_, sys::OpenAt(memory_.get(), kV1Control, O_RDONLY));
    DAVIT_RETURN_IF_ERROR(
        sys::WriteExistingAt(memory_.get(), "cgroup.event_control",
                             absl::StrCat(event_.get(), " ", oom_control_.get())));
  } else {
    DAVIT_ASSIGN_OR_RETURN(event_, sys::OpenAt(memory_.get(), kV2Events, O_RDONLY));
    events = EPOLLPRI;
  }
  on_oom_ = std::move(on_oom);
  return loop_->Watch(event_.get(), events, [this](uint32_t) { OnNotification(); });
}

void CgroupWatch::Stop() {
  if (recheck_ != 0) loop_->Cancel(std::exchange(recheck_, 0));
  if (event_.ok()) loop_->Unwatch(event_.get());
  event_.reset();
  oom_control_.reset();
}

void CgroupWatch::OnNotification() {
  // On v2 it is the reading of this description that makes EPOLLPRI fall silent until the next
  // event.
  char seen[512];
  [[maybe_unused]] const ssize_t n = memory_is_v1_ ? read(event_.get(), seen, sizeof(uint64_t))
                                                   : pread(event_.get(), seen, sizeof seen, 0);
  if (recheck_ != 0) loop_->Cancel(std::exchange(recheck_, 0));
  Recheck(0);
}

// v1 notifies before the victim is chosen, so the counter is looked at again a little later.
void CgroupWatch::Recheck(int attempt) {
  recheck_ = 0;
  const uint64_t kills = OomKills();
  if (kills > told_) {
    told_ = kills;
    on_oom_();
    return;
  }
  if (!memory_is_v1_ || attempt == 3) return;
  constexpr int kDelaysMs[] = {5, 50, 500};
  recheck_ = loop_->After(absl::Milliseconds(kDelaysMs[attempt]),
                          [this, attempt] { Recheck(attempt + 1); });
}

uint64_t CgroupWatch::OomKills() const {
  if (!memory_.ok()) return 0;
  // Never from event_: on v2 that would take an event that nobody has been told of yet.
  auto text = sys::ReadFileAt(memory_.get(), memory_is_v1_ ? kV1Control : kV2Events, kSmallFile);
  return text.ok() ? Field(*text, "oom_kill") : 0;
}

absl::Status CgroupWatch::KillAll() const {
  if (!members_.ok()) return absl::OkStatus();
  return KillCgroup(members_.get());
}

}  // namespace davit::sandbox
