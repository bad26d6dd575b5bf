#include "sandbox/supervisor/pod_init.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/syscalls.h"

namespace davit::sandbox {
namespace {

namespace raw = sys::raw;

// What a failing child tells before it ends; davit-init itself writes a single 'r'.
struct Report {
  int32_t step = 0;
  int32_t error = 0;
};

constexpr int kJoinUser = 1;
constexpr int kClone = 2;
constexpr int kExec = 3;

const char* StepName(int step) {
  switch (step) {
    case kJoinUser:
      return "join the pod's user namespace";
    case kClone:
      return "make the PID namespace";
    default:
      return "execute";
  }
}

[[noreturn]] void Fail(int pipe, int step, long result) {
  const Report report{step, static_cast<int32_t>(-result)};
  raw::Write(pipe, &report, sizeof report);
  raw::Exit(1);
}

// The new PID 1, until it has exec'ed.
[[noreturn]] void RunInit(int program, int pipe, bool in_user_namespace) {
  // A user that the namespace does not know would lose its capabilities by execve. Not earlier: to
  // be born in a cgroup takes the host's root.
  if (in_user_namespace) {
    long changed = raw::SetGroups(0, nullptr);
    if (changed == 0) changed = raw::SetResgid(0, 0, 0);
    if (changed == 0) changed = raw::SetResuid(0, 0, 0);
    if (changed < 0) Fail(pipe, kJoinUser, changed);
  }
  // davit-init expects its pipe as the only descriptor. The failure report shares it.
  const int own_program = static_cast<int>(raw::Call(SYS_fcntl, program, F_DUPFD_CLOEXEC, 3));
  if (own_program < 0) Fail(pipe, kExec, own_program);
  const long moved = raw::Call(SYS_dup3, pipe, 0, 0);
  if (moved < 0) Fail(pipe, kExec, moved);
  raw::CloseRange(1, ~0u, CLOSE_RANGE_CLOEXEC);
  const char* argv[] = {"davit-init", nullptr};
  const char* envp[] = {nullptr};
  Fail(0, kExec, raw::Call(SYS_execveat, own_program, "", argv, envp, AT_EMPTY_PATH));
}

struct Birth {
  int program;
  int user_namespace;
  int cgroup;
  int pipe;
};

long CloneInit(const Birth& birth, uint64_t extra_flags) {
  clone_args args{};
  args.flags = CLONE_NEWPID | CLONE_NEWNS | extra_flags;
  if (birth.cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(birth.cgroup);
  }
  // With CLONE_PARENT the kernel takes the caller's own exit signal, which is SIGCHLD.
  args.exit_signal = (extra_flags & CLONE_PARENT) != 0 ? 0 : SIGCHLD;
  const long pid = raw::Clone3(args);
  if (pid == 0) RunInit(birth.program, birth.pipe, birth.user_namespace >= 0);
  return pid;
}

// A PID namespace belongs to the user namespace of the one who makes it: a go-between enters that
// and gives birth to a sibling. Returns the new PID 1 as a child of ours, by the number that the
// go-between's own PID namespace, the host's, knows it by.
absl::StatusOr<pid_t> CloneInUserNamespace(const Birth& birth) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return sys::ErrnoStatus(errno, "pipe");
  sys::UniqueFd reader(fds[0]), writer(fds[1]);
  clone_args args{};
  args.exit_signal = SIGCHLD;
  const long between = raw::Clone3(args);
  if (between < 0) return sys::ErrnoStatus(static_cast<int>(-between), "clone");
  if (between == 0) {
    const long joined = raw::Call(SYS_setns, birth.user_namespace, CLONE_NEWUSER);
    if (joined < 0) Fail(birth.pipe, kJoinUser, joined);
    const long pid = CloneInit(birth, CLONE_PARENT);
    if (pid < 0) Fail(birth.pipe, kClone, pid);
    const auto number = static_cast<int32_t>(pid);
    raw::Write(writer.get(), &number, sizeof number);
    raw::Exit(0);
  }
  writer.reset();
  int32_t pid = 0;
  const long n = raw::Read(reader.get(), &pid, sizeof pid);
  int status;
  while (waitpid(static_cast<pid_t>(between), &status, 0) < 0 && errno == EINTR) {
  }
  return n == sizeof pid ? pid : 0;  // 0: the report tells why
}

}  // namespace

absl::StatusOr<PodInit> StartPodInit(int program, int user_namespace, const std::string& cgroup) {
  constexpr char kWhat[] = "start davit-init";
  sys::UniqueFd cgroup_fd;
  if (!cgroup.empty()) {
    auto opened = sys::OpenAt(AT_FDCWD, cgroup, O_PATH | O_DIRECTORY);
    if (!opened.ok()) return sys::Annotate(opened.status(), kWhat);
    cgroup_fd = *std::move(opened);
  }
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return sys::ErrnoStatus(errno, kWhat);
  sys::UniqueFd reader(fds[0]), writer(fds[1]);
  const Birth birth{program, user_namespace, cgroup_fd.get(), writer.get()};

  PodInit init;
  if (user_namespace >= 0) {
    auto pid = CloneInUserNamespace(birth);
    if (!pid.ok()) return sys::Annotate(pid.status(), kWhat);
    init.pid = *pid;
  } else {
    const long pid = CloneInit(birth, 0);
    if (pid < 0) {
      return sys::ErrnoStatus(static_cast<int>(-pid), absl::StrCat(kWhat, ": ", StepName(kClone)));
    }
    init.pid = static_cast<pid_t>(pid);
  }
  writer.reset();
  // Our child, not reaped yet: its number cannot have been given away.
  if (init.pid > 0) init.pidfd.reset(raw::PidfdOpen(init.pid));

  Report report;
  const long n = raw::Read(reader.get(), &report, sizeof report);
  if (n == 1 && init.pidfd.ok()) return init;
  int status = 0;
  if (init.pid > 0) {
    kill(init.pid, SIGKILL);
    while (waitpid(init.pid, &status, 0) < 0 && errno == EINTR) {
    }
  }
  if (n == sizeof report) {
    return sys::ErrnoStatus(report.error, absl::StrCat(kWhat, ": ", StepName(report.step)));
  }
  return absl::InternalError(
      absl::StrCat(kWhat, ": it ended while confining itself, wait status ", status));
}

}  // namespace davit::sandbox
