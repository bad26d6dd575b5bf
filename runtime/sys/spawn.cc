#include "runtime/sys/spawn.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/clone_vm.h"
#include "runtime/sys/errno.h"

namespace davit::sys {
namespace {

constexpr size_t kStackSize = 64 * 1024;

// The kernel's struct sigaction (arch/x86): glibc's wrapper would be intercepted.
struct KernelSigaction {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  unsigned long mask;
};

struct FdMove {
  int from;
  int to;
  int scratch;  // where the child keeps it until every descriptor is out of the way
};

// All that the child needs, prepared before the clone: it shares our memory and must not allocate.
struct ChildArguments {
  char* const* argv;
  char* const* envp;
  const char* path;
  FdMove* moves;
  int move_count;
  int highest;  // of the numbers that are named, at least 2
  int executable_fd;
  int devnull;
  int parent_death_signal;
  bool new_session;
  bool new_process_group;
  int error;  // written by the child, read after it execed or exited
};

DAVIT_NO_SANITIZE bool Named(const ChildArguments* arguments, int number) {
  for (int i = 0; i < arguments->move_count; ++i) {
    if (arguments->moves[i].to == number) return true;
  }
  return false;
}

// False, with errno, if a descriptor could not be moved: the program would run without it, or with
// another in its place.
DAVIT_NO_SANITIZE bool MoveFds(ChildArguments* arguments) {
  // First to free numbers above all that are named, so that no move overwrites one still to be
  // made.
  const int free_above = arguments->highest + 1;
  for (int i = 0; i < arguments->move_count; ++i) {
    FdMove& move = arguments->moves[i];
    move.scratch = static_cast<int>(syscall(SYS_fcntl, move.from, F_DUPFD_CLOEXEC, free_above));
    if (move.scratch < 0) return false;
  }
  if (arguments->executable_fd >= 0) {
    arguments->executable_fd =
        static_cast<int>(syscall(SYS_fcntl, arguments->executable_fd, F_DUPFD_CLOEXEC, free_above));
    if (arguments->executable_fd < 0) return false;
  }
  for (int number = 0; number <= 2; ++number) {
    if (syscall(SYS_dup3, arguments->devnull, number, 0) < 0) return false;
  }
  for (int i = 0; i < arguments->move_count; ++i) {
    if (syscall(SYS_dup3, arguments->moves[i].scratch, arguments->moves[i].to, 0) < 0) return false;
  }
  // Whatever lies between the named numbers, and above, must not survive the exec.
  for (int number = 3; number < arguments->highest; ++number) {
    if (!Named(arguments, number)) syscall(SYS_close, number);
  }
  return syscall(SYS_close_range, static_cast<unsigned>(free_above), ~0U, CLOSE_RANGE_CLOEXEC) == 0;
}

DAVIT_NO_SANITIZE int RunChild(void* opaque) {
  auto* arguments = static_cast<ChildArguments*>(opaque);
  // Handlers would run on memory shared with the parent: all signals are blocked until here and are
  // reset to their defaults before the mask is lifted.
  KernelSigaction by_default{};
  for (int number = 1; number <= 64; ++number) {
    syscall(SYS_rt_sigaction, number, &by_default, nullptr, sizeof by_default.mask);
  }
  if (arguments->new_session) syscall(SYS_setsid);
  if (arguments->new_process_group) syscall(SYS_setpgid, 0, 0);
  if (arguments->parent_death_signal != 0) {
    syscall(SYS_prctl, PR_SET_PDEATHSIG, arguments->parent_death_signal, 0, 0, 0);
  }
  if (!MoveFds(arguments)) {
    arguments->error = errno;
    syscall(SYS_exit, 127);
  }
  unsigned long none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
  if (arguments->executable_fd >= 0) {
    syscall(SYS_execveat, arguments->executable_fd, "", arguments->argv, arguments->envp,
            AT_EMPTY_PATH);
  } else {
    syscall(SYS_execve, arguments->path, arguments->argv, arguments->envp);
  }
  arguments->error = errno;
  syscall(SYS_exit, 127);
  return 127;
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

#if defined(DAVIT_SANITIZED)
// tools/sanitize collects the reports of all programs: the children must be told where, too.
std::vector<std::string> WithSanitizers(std::vector<std::string> environment) {
  if (getenv("DAVIT_SANITIZER_LOG") == nullptr) return environment;
  for (const char* name :
       {"DAVIT_SANITIZER_LOG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"}) {
    const char* value = getenv(name);
    if (value != nullptr) environment.push_back(absl::StrCat(name, "=", value));
  }
  return environment;
}
#else
const std::vector<std::string>& WithSanitizers(const std::vector<std::string>& environment) {
  return environment;
}
#endif

}  // namespace

absl::StatusOr<SpawnedProcess> Spawn(const SpawnOptions& options) {
  std::vector<char*> argv = Pointers(options.argv);
  const std::vector<std::string>& environment = WithSanitizers(options.environment);
  std::vector<char*> envp = Pointers(environment);
  UniqueFd devnull(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!devnull.ok()) return ErrnoStatus(errno, "open /dev/null");
  std::vector<FdMove> moves;
  moves.reserve(options.fds.size());
  int highest = 2;
  for (const auto& [from, to] : options.fds) {
    moves.push_back({from, to, -1});
    highest = std::max(highest, to);
  }
  ChildArguments child{.argv = argv.data(),
                       .envp = envp.data(),
                       .path = options.path.c_str(),
                       .moves = moves.data(),
                       .move_count = static_cast<int>(moves.size()),
                       .highest = highest,
                       .executable_fd = options.executable_fd,
                       .devnull = devnull.get(),
                       .parent_death_signal = options.parent_death_signal,
                       .new_session = options.new_session,
                       .new_process_group = options.new_process_group,
                       .error = 0};

  void* stack = mmap(nullptr, kStackSize, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return ErrnoStatus(errno, "map a stack");
  auto unmap = absl::MakeCleanup([&] { munmap(stack, kStackSize); });

  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;
  arguments.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  arguments.stack = reinterpret_cast<uint64_t>(stack);
  arguments.stack_size = kStackSize;
  if (options.cgroup_fd >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<uint64_t>(options.cgroup_fd);
  }

  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  const long pid = CloneVm(&arguments, RunChild, &child);
  pthread_sigmask(SIG_SETMASK, &old, nullptr);

  const std::string& what = options.path.empty() ? options.argv.front() : options.path;
  if (pid < 0) return ErrnoStatus(static_cast<int>(-pid), absl::StrCat("start ", what));
  SpawnedProcess process{static_cast<pid_t>(pid), UniqueFd(pidfd)};
  if (child.error != 0) {
    (void)WaitPidfd(process.pidfd.get(), absl::InfiniteFuture());
    return ErrnoStatus(child.error, absl::StrCat("execute ", what));
  }
  return process;
}

absl::StatusOr<int> WaitPidfd(int pidfd, absl::Time deadline) {
  for (;;) {
    pollfd entry{pidfd, POLLIN, 0};
    int timeout = -1;
    if (deadline != absl::InfiniteFuture()) {
      const int64_t left = absl::ToInt64Milliseconds(
          std::max(absl::ZeroDuration(), deadline - absl::Now() + absl::Microseconds(999)));
      timeout = static_cast<int>(std::min<int64_t>(left, 1 << 30));
    }
    const int ready = poll(&entry, 1, timeout);
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return ErrnoStatus(errno, "poll a pidfd");
    if (ready == 0) {
      if (absl::Now() < deadline) continue;
      return absl::DeadlineExceededError("wait for a child process: still running");
    }
    siginfo_t info{};
    if (waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED) != 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "wait for a child process");
    }
    if (info.si_code == CLD_EXITED) return (info.si_status & 0xff) << 8;
    return info.si_status | (info.si_code == CLD_DUMPED ? 0x80 : 0);
  }
}

absl::Status KillPidfd(int pidfd, int signal) {
  if (syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) != 0 && errno != ESRCH) {
    return ErrnoStatus(errno, absl::StrCat("send signal ", signal));
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> PidfdOpen(pid_t pid) {
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("open a pidfd for process ", pid));
  return fd;
}

absl::StatusOr<CommandResult> RunCommand(SpawnOptions options, absl::string_view input,
                                         size_t output_limit, absl::Time deadline) {
  int in[2];
  int out[2];
  int err[2];
  if (pipe2(in, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  UniqueFd in_read(in[0]);
  UniqueFd in_write(in[1]);
  if (pipe2(out, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  UniqueFd out_read(out[0]);
  UniqueFd out_write(out[1]);
  if (pipe2(err, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  UniqueFd err_read(err[0]);
  UniqueFd err_write(err[1]);
  options.fds.insert(options.fds.end(), {{in[0], 0}, {out[1], 1}, {err[1], 2}});
  options.new_process_group = true;
  DAVIT_ASSIGN_OR_RETURN(SpawnedProcess process, Spawn(options));
  in_read.reset();
  out_write.reset();
  err_write.reset();
  fcntl(in_write.get(), F_SETFL, O_NONBLOCK);

  CommandResult result;
  auto drain = [output_limit](UniqueFd& fd, std::string& into) {
    char buffer[16384];
    const ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n == 0 || (n < 0 && errno != EINTR)) {
      fd.reset();
    } else if (n > 0) {
      into.append(buffer, std::min(static_cast<size_t>(n), output_limit - into.size()));
    }
  };
  // A command that ends without reading its input must not end us with SIGPIPE.
  sigset_t pipe_signal;
  sigset_t old_mask;
  sigemptyset(&pipe_signal);
  sigaddset(&pipe_signal, SIGPIPE);
  pthread_sigmask(SIG_BLOCK, &pipe_signal, &old_mask);
  auto restore_mask = absl::MakeCleanup([&] {
    const timespec now{0, 0};
    if (!sigismember(&old_mask, SIGPIPE)) (void)sigtimedwait(&pipe_signal, nullptr, &now);
    pthread_sigmask(SIG_SETMASK, &old_mask, nullptr);
  });
  while (out_read.ok() || err_read.ok() || in_write.ok()) {
    if (in_write.ok() && input.empty()) in_write.reset();
    pollfd entries[3] = {
        {out_read.get(), POLLIN, 0}, {err_read.get(), POLLIN, 0}, {in_write.get(), POLLOUT, 0}};
    const int64_t left = deadline == absl::InfiniteFuture()
                             ? 1 << 30
                             : absl::ToInt64Milliseconds(deadline - absl::Now());
    if (left <= 0) break;
    if (poll(entries, 3, static_cast<int>(std::min<int64_t>(left, 1 << 30))) < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus(errno, "poll");
    }
    if (entries[0].revents != 0) drain(out_read, result.out);
    if (entries[1].revents != 0) drain(err_read, result.err);
    if (entries[2].revents != 0) {
      const ssize_t n = write(in_write.get(), input.data(), input.size());
      if (n > 0) {
        input.remove_prefix(static_cast<size_t>(n));
      } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        in_write.reset();
      }
    }
  }
  auto status = WaitPidfd(process.pidfd.get(), deadline);
  if (!status.ok()) {
    kill(-process.pid, SIGKILL);
    (void)WaitPidfd(process.pidfd.get(), absl::InfiniteFuture());
    return Annotate(status.status(), absl::StrCat("run ", options.argv.front()));
  }
  result.wait_status = *status;
  return result;
}

}  // namespace davit::sys
