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
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::sys {
namespace {

constexpr size_t kStackSize = 64 * 1024;
// Descriptors are first moved above this number, so that no move overwrites one still to be moved.
constexpr int kScratchBase = 512;

// All that the child needs, prepared before the clone: it shares our memory and must not allocate.
struct ChildArguments {
  const SpawnOptions* options;
  char* const* argv;
  char* const* envp;
  const char* path;
  int devnull;
  int error;  // written by the child, read after it execed or exited
};

void MoveFds(const ChildArguments& arguments) {
  const auto& fds = arguments.options->fds;
  int scratch = kScratchBase;
  for (const auto& [from, to] : fds) {
    if (dup3(from, scratch++, O_CLOEXEC) < 0) return;
  }
  const int executable = arguments.options->executable_fd;
  const int executable_scratch = scratch++;
  if (executable >= 0) dup3(executable, executable_scratch, O_CLOEXEC);
  for (int number = 0; number <= 2; ++number) dup2(arguments.devnull, number);
  scratch = kScratchBase;
  int highest = 2;
  for (const auto& [from, to] : fds) {
    dup2(scratch++, to);
    highest = std::max(highest, to);
  }
  // Whatever lies between the named numbers, and above, must not survive the exec.
  for (int number = 3; number < highest; ++number) {
    const bool named = std::any_of(fds.begin(), fds.end(),
                                   [number](const auto& pair) { return pair.second == number; });
    if (!named) close(number);
  }
  syscall(SYS_close_range, static_cast<unsigned>(highest + 1), ~0U, CLOSE_RANGE_CLOEXEC);
}

int RunChild(void* opaque) {
  auto* arguments = static_cast<ChildArguments*>(opaque);
  const SpawnOptions& options = *arguments->options;
  // Handlers would run on memory shared with the parent: all signals are blocked until here and are
  // reset to their defaults before the mask is lifted.
  struct sigaction by_default {};
  by_default.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number) sigaction(number, &by_default, nullptr);
  if (options.new_session) setsid();
  if (options.new_process_group) setpgid(0, 0);
  if (options.parent_death_signal != 0) prctl(PR_SET_PDEATHSIG, options.parent_death_signal);
  MoveFds(*arguments);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  if (options.executable_fd >= 0) {
    const int executable = kScratchBase + static_cast<int>(options.fds.size());
    syscall(SYS_execveat, executable, "", arguments->argv, arguments->envp, AT_EMPTY_PATH);
  } else {
    execve(arguments->path, arguments->argv, arguments->envp);
  }
  arguments->error = errno;
  _exit(127);
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  for (const std::string& text : strings) pointers.push_back(const_cast<char*>(text.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

#if defined(__x86_64__)
// clone3 with CLONE_VM needs a stack of its own and code that touches nothing of the parent's frame
// in the child; glibc has no wrapper that takes CLONE_INTO_CGROUP.
__attribute__((noinline)) long CloneVm(clone_args* arguments, size_t size, int (*function)(void*),
                                       void* argument) {
  long result;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %[argument], %%rdi\n\t"
      "call *%[function]\n\t"
      "mov %%eax, %%edi\n\t"
      "mov $60, %%eax\n\t"
      "syscall\n\t"
      "1:\n\t"
      : "=a"(result)
      : "0"(static_cast<long>(SYS_clone3)), "D"(arguments),
        "S"(size), [function] "r"(function), [argument] "r"(argument)
      : "rcx", "r11", "memory");
  return result;
}
#else
#error "CloneVm is written for x86_64; add this architecture's clone3 call"
#endif

}  // namespace

absl::StatusOr<SpawnedProcess> Spawn(const SpawnOptions& options) {
  std::vector<char*> argv = Pointers(options.argv);
  std::vector<char*> envp = Pointers(options.environment);
  UniqueFd devnull(open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!devnull.ok()) return ErrnoStatus(errno, "open /dev/null");
  ChildArguments child{&options, argv.data(), envp.data(), options.path.c_str(), devnull.get(), 0};

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
  const long pid = CloneVm(&arguments, sizeof arguments, RunChild, &child);
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
