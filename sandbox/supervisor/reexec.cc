#include "sandbox/supervisor/reexec.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/spawn.h"
#include "runtime/sys/syscalls.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sandbox {
namespace {

namespace raw = sys::raw;

constexpr off_t kMaxProgram = 64 * 1024 * 1024;
constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
constexpr size_t kMaxComplaint = 2048;

// The arguments of an execve, made before there is a child that may not allocate.
class Arguments {
 public:
  Arguments(const std::string& name, const char* what, int state)
      : name_(name), what_(what), state_(absl::StrCat(state)) {}
  // Returns -errno.
  long Execute(int program) const {
    const char* argv[] = {"davit-pod", name_.c_str(), what_, state_.c_str(), nullptr};
    const char* envp[] = {nullptr};
    return raw::Call(SYS_execveat, program, "", argv, envp, AT_EMPTY_PATH);
  }

 private:
  const std::string name_;
  const char* const what_;
  const std::string state_;
};

// What the child wrote, until it closes its end or the time is over.
std::string ReadAnswer(int fd, absl::Time deadline) {
  std::string answer;
  for (;;) {
    const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
    pollfd poll_fd{fd, POLLIN, 0};
    if (left <= 0 || poll(&poll_fd, 1, static_cast<int>(left)) <= 0) return answer;
    char buffer[512];
    const long n = raw::Read(fd, buffer, sizeof buffer);
    if (n <= 0) return answer;
    answer.append(buffer, static_cast<size_t>(n));
    if (answer.size() > kMaxComplaint) return answer;
  }
}

// Lets the program look, in a child, at what it is to take over.
absl::Status RunCheck(int program, const Arguments& arguments, absl::Duration patience) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return sys::ErrnoStatus(errno, "make a pipe");
  const sys::UniqueFd reader(fds[0]);
  sys::UniqueFd writer(fds[1]);
  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const long pid = raw::Clone3(args);
  if (pid == 0) {
    raw::Call(SYS_dup3, writer.get(), STDOUT_FILENO, 0);
    raw::Exit(arguments.Execute(program) == -ENOEXEC ? 126 : 127);
  }
  if (pid < 0) return sys::ErrnoStatus(static_cast<int>(-pid), "clone");
  const sys::UniqueFd owned_pidfd(pidfd);
  writer.reset();
  const absl::Time deadline = absl::Now() + patience;
  const std::string answer = ReadAnswer(reader.get(), deadline);
  auto status = sys::WaitPidfd(pidfd, deadline);
  if (!status.ok()) {
    sys::KillPidfd(pidfd, SIGKILL).IgnoreError();
    sys::WaitPidfd(pidfd, absl::InfiniteFuture()).IgnoreError();
    return absl::FailedPreconditionError(absl::StrCat(
        "it did not say within ", absl::FormatDuration(patience), " whether it can take over"));
  }
  const bool accepted = answer.compare(0, strlen(kCanTakeOver), kCanTakeOver) == 0;
  if (*status == 0 && accepted) return absl::OkStatus();
  if (WIFEXITED(*status) && !answer.empty()) {
    return absl::FailedPreconditionError(answer.substr(0, kMaxComplaint));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("it cannot be run: the check ended with ",
                   WIFSIGNALED(*status) ? absl::StrCat("signal ", WTERMSIG(*status))
                                        : absl::StrCat("status ", WEXITSTATUS(*status))));
}

}  // namespace

absl::Status CheckProgram(int fd) {
  struct stat st;
  if (fstat(fd, &st) != 0) return sys::ErrnoStatus(errno, "stat the new program");
  const int seals = fcntl(fd, F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals) {
    return absl::InvalidArgumentError("the new program is no sealed memfd");
  }
  if (st.st_size <= 0 || st.st_size > kMaxProgram) {
    return absl::InvalidArgumentError(absl::StrCat("the new program has ", st.st_size, " bytes"));
  }
  const auto size = static_cast<size_t>(st.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (memory == MAP_FAILED) return sys::ErrnoStatus(errno, "map the new program");
  const bool known = memmem(memory, size, kCanTakeOver, strlen(kCanTakeOver)) != nullptr;
  munmap(memory, size);
  if (known) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the new program is no davit-pod that can take the place of another");
}

absl::Status ReplaceProgram(int program, int state, const SavedDescriptors& descriptors,
                            const std::string& name, absl::Duration patience) {
  const Arguments check(name, kCheckArgument, state), resume(name, kResumeArgument, state);
  absl::Status status = descriptors.KeepOverExec(true);
  if (fcntl(state, F_SETFD, 0) != 0) status = sys::ErrnoStatus(errno, "keep the state");
  if (status.ok()) status = RunCheck(program, check, patience);
  if (status.ok()) {
    const long result = resume.Execute(program);
    status = sys::ErrnoStatus(static_cast<int>(-result), "execute the new program");
  }
  fcntl(state, F_SETFD, FD_CLOEXEC);
  descriptors.KeepOverExec(false).IgnoreError();
  return status;
}

}  // namespace davit::sandbox
