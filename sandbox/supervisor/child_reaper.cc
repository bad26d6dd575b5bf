#include "sandbox/supervisor/child_reaper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

// siginfo_t of waitid -> a status word of waitpid.
int WaitStatus(const siginfo_t& info) {
  switch (info.si_code) {
    case CLD_EXITED:
      return (info.si_status & 0xff) << 8;
    case CLD_DUMPED:
      return (info.si_status & 0x7f) | 0x80;
    default:
      return info.si_status & 0x7f;
  }
}

// Returns false if there is nothing to reap.
bool Wait(idtype_t type, id_t id, int options, siginfo_t* info) {
  info->si_pid = 0;
  int result;
  do {
    result = waitid(type, id, info, WEXITED | options);
  } while (result != 0 && errno == EINTR);
  return result == 0 && info->si_pid != 0;
}

}  // namespace

pid_t PidOfPidfd(int pidfd) {
  if (pidfd < 0) return 0;
  auto info = sys::ReadFileAt(AT_FDCWD, absl::StrCat("/proc/self/fdinfo/", pidfd), 4096);
  if (!info.ok()) return 0;
  const size_t at = info->find("\nPid:");
  if (at == std::string::npos) return 0;
  return std::max(0, atoi(info->c_str() + at + strlen("\nPid:")));
}

absl::StatusOr<std::unique_ptr<ChildReaper>> ChildReaper::Create(EventLoop* loop) {
  std::unique_ptr<ChildReaper> reaper(new ChildReaper(loop));
  sigset_t mask;
  sigemptyset(&mask);
  sigaddset(&mask, SIGCHLD);
  reaper->signal_.reset(signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!reaper->signal_.ok()) return sys::ErrnoStatus(errno, "signalfd");
  DAVIT_RETURN_IF_ERROR(loop->Watch(reaper->signal_.get(), EPOLLIN, [r = reaper.get()](uint32_t) {
    signalfd_siginfo info;
    while (read(r->signal_.get(), &info, sizeof info) > 0) {
    }
    r->ReapOrphans();
  }));
  return reaper;
}

ChildReaper::~ChildReaper() {
  loop_->Unwatch(signal_.get());
  for (const auto& [pid, child] : children_) loop_->Unwatch(child.pidfd);
}

absl::Status ChildReaper::Await(pid_t pid, int pidfd, ExitCallback callback) {
  DAVIT_RETURN_IF_ERROR(loop_->Watch(pidfd, EPOLLIN, [this, pid](uint32_t) { OnExit(pid); }));
  children_[pid] = Child{pidfd, std::move(callback)};
  return absl::OkStatus();
}

void ChildReaper::Forget(pid_t pid) {
  auto it = children_.find(pid);
  if (it == children_.end()) return;
  loop_->Unwatch(it->second.pidfd);
  children_.erase(it);
  ReapOrphans();
}

void ChildReaper::LeftIsReaped(pid_t pid) {
  left_.erase(pid);
  ReapOrphans();
}

std::optional<int> ChildReaper::ReapLeft(pid_t pid) {
  siginfo_t info;
  if (!Wait(P_PID, static_cast<id_t>(pid), WNOHANG, &info)) return std::nullopt;
  LeftIsReaped(pid);
  return WaitStatus(info);
}

void ChildReaper::OnExit(pid_t pid) {
  auto it = children_.find(pid);
  if (it == children_.end()) return;
  siginfo_t info;
  // By number: it is our unreaped child, so the number is still its own.
  if (!Wait(P_PID, static_cast<id_t>(pid), WNOHANG, &info)) return;
  loop_->Unwatch(it->second.pidfd);
  auto node = children_.extract(it);
  ReapOrphans();
  node.mapped().callback(WaitStatus(info));
}

// Children with an owner are only looked at. One of those at the front hides the orphans behind it,
// which are reaped when it has been.
void ChildReaper::ReapOrphans() {
  siginfo_t info;
  while (Wait(P_ALL, 0, WNOHANG | WNOWAIT, &info)) {
    if (children_.contains(info.si_pid) || left_.contains(info.si_pid)) return;
    if (!Wait(P_PID, static_cast<id_t>(info.si_pid), WNOHANG, &info)) return;
  }
}

}  // namespace davit::sandbox
