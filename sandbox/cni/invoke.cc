#include "sandbox/cni/invoke.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/cni/json.h"

namespace davit::sandbox::cni {
namespace {

constexpr int kLockNumber = 3;
constexpr size_t kMaxErrorText = 2048;
constexpr int kTryAgainLater = 11;  // CNI specification, well-known error codes
// How long a killed plugin may take to go. One that hangs in the kernel is left to the lock: the
// next DEL waits for it.
constexpr absl::Duration kKillGrace = absl::Seconds(10);

// A pipe's reading end, what came out of it, and whether that was too much.
struct Output {
  sys::UniqueFd fd;
  std::string text;
  bool truncated = false;

  // Takes what is there; false at the end of the stream.
  bool Drain() {
    char buffer[16384];
    for (;;) {
      const ssize_t n = read(fd.get(), buffer, sizeof buffer);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return true;
      if (n <= 0) return false;
      const size_t room = kMaxJson - std::min(kMaxJson, text.size());
      truncated = truncated || static_cast<size_t>(n) > room;
      text.append(buffer, std::min(static_cast<size_t>(n), room));
    }
  }
};

absl::StatusOr<sys::UniqueFd> OpenOutput(Output& output) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return sys::ErrnoStatus(errno, "make a pipe for a CNI plugin");
  output.fd = sys::UniqueFd(ends[0]);
  sys::UniqueFd write_end(ends[1]);
  if (fcntl(ends[0], F_SETFL, O_NONBLOCK) != 0) {
    return sys::ErrnoStatus(errno, "make a pipe non-blocking");
  }
  return write_end;
}

int MillisecondsUntil(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return -1;
  const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now() + absl::Microseconds(999));
  return static_cast<int>(std::clamp<int64_t>(left, 0, 1 << 30));
}

// Reads both outputs until the process exits; false if the deadline passed before.
bool WaitForExit(int pidfd, Output& out, Output& err, absl::Time deadline) {
  for (;;) {
    pollfd entries[3] = {{pidfd, POLLIN, 0}, {out.fd.get(), POLLIN, 0}, {err.fd.get(), POLLIN, 0}};
    const int ready = poll(entries, 3, MillisecondsUntil(deadline));
    if (ready < 0 && errno != EINTR) return false;
    if (ready == 0 && absl::Now() >= deadline) return false;
    if (ready <= 0) continue;
    // Poll leaves a closed (-1) entry out.
    if (entries[1].revents != 0 && !out.Drain()) out.fd.reset();
    if (entries[2].revents != 0 && !err.Drain()) err.fd.reset();
    if (entries[0].revents != 0) {
      // What it left in the pipes; a descendant that holds them open is not waited for.
      if (out.fd.ok()) (void)out.Drain();
      if (err.fd.ok()) (void)err.Drain();
      return true;
    }
  }
}

std::string Describe(const Invocation& invocation) {
  return absl::StrCat("CNI plugin ", invocation.plugin, ": ", invocation.command);
}

absl::string_view Tail(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  return text.size() > kMaxErrorText ? text.substr(text.size() - kMaxErrorText) : text;
}

absl::Status FailureOf(const Invocation& invocation, int wait_status, const std::string& out,
                       const std::string& err) {
  absl::StatusCode code = absl::StatusCode::kInternal;
  std::string message;
  if (const auto report = ParseJson(out, "error"); report.ok() && report->is_object()) {
    message = StringMember(*report, "msg");
    if (const std::string details = StringMember(*report, "details"); !details.empty()) {
      absl::StrAppend(&message, message.empty() ? "" : "; ", details);
    }
    const auto number = report->find("code");
    if (number != report->end() && number->is_number_integer() && *number == kTryAgainLater) {
      code = absl::StatusCode::kUnavailable;
    }
    message = std::string(Tail(message));
  }
  if (message.empty()) message = std::string(Tail(err));
  if (message.empty()) message = std::string(Tail(out));
  const std::string how = WIFSIGNALED(wait_status)
                              ? absl::StrCat("killed by signal ", WTERMSIG(wait_status))
                              : absl::StrCat("exit status ", WEXITSTATUS(wait_status));
  return absl::Status(code,
                      absl::StrCat(Describe(invocation), ": ",
                                   message.empty() ? how : absl::StrCat(message, " (", how, ")")));
}

sys::SpawnOptions MakeOptions(const Invocation& invocation, const std::string& path) {
  sys::SpawnOptions options;
  options.path = path;
  options.argv = {path};
  options.new_process_group = true;
  options.environment = {
      absl::StrCat("CNI_COMMAND=", invocation.command),
      absl::StrCat("CNI_CONTAINERID=", invocation.container_id),
      absl::StrCat("CNI_NETNS=", invocation.netns),
      absl::StrCat("CNI_IFNAME=", invocation.interface),
      absl::StrCat("CNI_ARGS=", invocation.args),
      absl::StrCat("CNI_PATH=", absl::StrJoin(invocation.bin_dirs, ":")),
      // Plugins run iptables, nft, ip and the like.
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  };
  return options;
}

}  // namespace

absl::StatusOr<std::string> FindPlugin(const std::string& plugin,
                                       const std::vector<std::string>& bin_dirs) {
  for (const std::string& directory : bin_dirs) {
    const std::string path = absl::StrCat(directory, "/", plugin);
    struct stat st;
    if (stat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode) && access(path.c_str(), X_OK) == 0) {
      return path;
    }
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "CNI plugin ", plugin, " is not installed: looked in ", absl::StrJoin(bin_dirs, ", ")));
}

absl::StatusOr<std::string> Invoke(const Invocation& invocation) {
  DAVIT_ASSIGN_OR_RETURN(const std::string path,
                         FindPlugin(invocation.plugin, invocation.bin_dirs));
  if (absl::Now() >= invocation.deadline) {
    return absl::DeadlineExceededError(
        absl::StrCat(Describe(invocation), ": not started, the deadline has passed"));
  }
  sys::SpawnOptions options = MakeOptions(invocation, path);
  // A file and not a pipe: a plugin that does not read blocks nobody and raises no signal.
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd input,
                         sys::SealedMemfd("cni-config", invocation.input));
  Output out;
  Output err;
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd out_end, OpenOutput(out));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd err_end, OpenOutput(err));
  options.fds = {{input.get(), 0}, {out_end.get(), 1}, {err_end.get(), 2}};
  if (invocation.lock_fd >= 0) options.fds.emplace_back(invocation.lock_fd, kLockNumber);
  auto process = sys::Spawn(options);
  if (!process.ok()) return sys::Annotate(process.status(), Describe(invocation));
  out_end.reset();
  err_end.reset();

  const bool exited = WaitForExit(process->pidfd.get(), out, err, invocation.deadline);
  // Not reaped yet: its number still names its own process group and no other.
  kill(-process->pid, SIGKILL);
  const auto status = sys::WaitPidfd(process->pidfd.get(), absl::Now() + kKillGrace);
  if (!exited) {
    return absl::DeadlineExceededError(
        absl::StrCat(Describe(invocation), ": took too long and was killed",
                     status.ok() ? "" : ", and still has not exited"));
  }
  if (!status.ok()) return sys::Annotate(status.status(), Describe(invocation));
  if (*status != 0) return FailureOf(invocation, *status, out.text, err.text);
  if (out.truncated) {
    return absl::ResourceExhaustedError(
        absl::StrCat(Describe(invocation), ": printed more than ", kMaxJson, " bytes"));
  }
  return std::move(out.text);
}

}  // namespace davit::sandbox::cni
