#include "sandbox/supervisor/pod_init.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"
#include "runtime/sys/syscalls.h"

namespace davit::sandbox {
namespace {

std::string ReadProc(pid_t pid, const std::string& file) {
  auto text = sys::ReadFileAt(AT_FDCWD, absl::StrCat("/proc/", pid, "/", file), 1 << 20);
  return text.ok() ? *text : text.status().ToString();
}

std::string StatusField(pid_t pid, const std::string& name) {
  for (const std::string& line :
       std::vector<std::string>(absl::StrSplit(ReadProc(pid, "status"), '\n'))) {
    if (line.rfind(name + ":\t", 0) == 0) return line.substr(name.size() + 2);
  }
  return "(none)";
}

std::string LinkOf(const std::string& path) {
  char target[256];
  const ssize_t n = readlink(path.c_str(), target, sizeof target);
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

class PodInitTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto program = sys::ReadFileAt(AT_FDCWD, "sandbox/supervisor/davit-init", 1 << 20);
    ASSERT_TRUE(program.ok()) << program.status();
    auto memfd = sys::SealedMemfd("davit-init", *program);
    ASSERT_TRUE(memfd.ok());
    program_ = *std::move(memfd);
  }
  static void End(const PodInit& init) {
    ASSERT_TRUE(sys::KillPidfd(init.pidfd.get(), SIGKILL).ok());
    auto status = sys::WaitPidfd(init.pidfd.get(), absl::Now() + absl::Seconds(10));
    ASSERT_TRUE(status.ok()) << status.status();
    EXPECT_EQ(WTERMSIG(*status), SIGKILL);
  }
  sys::UniqueFd program_;
};

TEST_F(PodInitTest, HasNothingWorthReaching) {
  auto init = StartPodInit(program_.get(), -1, "");
  ASSERT_TRUE(init.ok()) << init.status();
  const pid_t pid = init->pid;
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    EXPECT_EQ(StatusField(pid, set), "0000000000000000") << set;
  }
  EXPECT_EQ(StatusField(pid, "NoNewPrivs"), "1");
  EXPECT_EQ(StatusField(pid, "Seccomp"), "2");
  EXPECT_EQ(StatusField(pid, "Name"), "davit-init");
  const std::vector<std::string> ids = absl::StrSplit(StatusField(pid, "NSpid"), '\t');
  EXPECT_EQ(ids.back(), "1");
  // Of a process that is not dumpable, /proc belongs to root, not to its own user.
  struct stat st;
  ASSERT_EQ(stat(absl::StrCat("/proc/", pid, "/fd").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 0u);
  EXPECT_EQ(StatusField(pid, "Uid"), "65534\t65534\t65534\t65534");

  auto fds =
      sys::RunCommand({.path = "/bin/ls", .argv = {"ls", absl::StrCat("/proc/", pid, "/fd")}}, "",
                      4096, absl::Now() + absl::Seconds(10));
  ASSERT_TRUE(fds.ok());
  EXPECT_EQ(fds->out, "");
  auto root = sys::RunCommand(
      {.path = "/bin/ls", .argv = {"ls", "-A", absl::StrCat("/proc/", pid, "/root/")}}, "", 4096,
      absl::Now() + absl::Seconds(10));
  ASSERT_TRUE(root.ok());
  EXPECT_EQ(root->out, "");
  EXPECT_EQ(root->err, "");
  const std::string mounts = ReadProc(pid, "mountinfo");
  EXPECT_EQ(std::count(mounts.begin(), mounts.end(), '\n'), 1) << mounts;
  EXPECT_NE(LinkOf(absl::StrCat("/proc/", pid, "/exe")).find("memfd:davit-init"),
            std::string::npos);
  End(*init);
}

TEST_F(PodInitTest, EndsBySigkillOnlyAndReapsWhatIsOrphaned) {
  auto init = StartPodInit(program_.get(), -1, "");
  ASSERT_TRUE(init.ok()) << init.status();
  for (int signal = 1; signal < SIGRTMIN; ++signal) {
    if (signal != SIGKILL && signal != SIGSTOP) kill(init->pid, signal);
  }
  // A process of its PID namespace leaves a child behind, which ends a little later.
  const pid_t joiner = fork();
  if (joiner == 0) {
    if (setns(init->pidfd.get(), CLONE_NEWPID) != 0) _exit(1);
    const pid_t member = fork();
    if (member == 0) {
      int pipe_fds[2];
      if (pipe(pipe_fds) != 0) _exit(2);
      const pid_t orphan = fork();
      if (orphan == 0) {
        close(pipe_fds[1]);
        char byte;
        [[maybe_unused]] const ssize_t n = read(pipe_fds[0], &byte, 1);  // until its parent is gone
        _exit(0);
      }
      _exit(orphan < 0 ? 3 : 0);
    }
    int status;
    waitpid(member, &status, 0);
    _exit(WEXITSTATUS(status));
  }
  int status;
  ASSERT_EQ(waitpid(joiner, &status, 0), joiner);
  EXPECT_EQ(status, 0);
  const std::string children = absl::StrCat("task/", init->pid, "/children");
  for (int i = 0; i < 1000 && !ReadProc(init->pid, children).empty(); ++i) usleep(10000);
  EXPECT_EQ(ReadProc(init->pid, children), "");
  EXPECT_NE(StatusField(init->pid, "State").find('S'), std::string::npos);
  End(*init);
}

TEST_F(PodInitTest, BelongsToTheUserNamespaceItIsGiven) {
  // Not fork and unshare: a sanitizer's fork starts a thread, and then the kernel refuses unshare.
  clone_args args{};
  args.flags = CLONE_NEWUSER;
  args.exit_signal = SIGCHLD;
  const auto holder = static_cast<pid_t>(sys::raw::Clone3(args));
  if (holder == 0) {
    for (;;) sys::raw::Call(SYS_ppoll, nullptr, 0, nullptr, nullptr, 0);
  }
  ASSERT_GT(holder, 0);
  const std::string ns = absl::StrCat("/proc/", holder, "/ns/user");
  auto write_map = [&](const char* file) {
    return sys::WriteExistingAt(AT_FDCWD, absl::StrCat("/proc/", holder, "/", file),
                                "0 100000 65536\n");
  };
  ASSERT_TRUE(write_map("uid_map").ok());
  ASSERT_TRUE(write_map("gid_map").ok());
  auto user = sys::OpenAt(AT_FDCWD, ns, O_RDONLY);
  ASSERT_TRUE(user.ok());
  const std::string expected = LinkOf(ns);
  auto init = StartPodInit(program_.get(), user->get(), "");
  kill(holder, SIGKILL);
  waitpid(holder, nullptr, 0);
  ASSERT_TRUE(init.ok()) << init.status();
  EXPECT_EQ(LinkOf(absl::StrCat("/proc/", init->pid, "/ns/user")), expected);
  EXPECT_EQ(StatusField(init->pid, "CapEff"), "0000000000000000");
  EXPECT_EQ(StatusField(init->pid, "PPid"), absl::StrCat(getpid()));
  End(*init);
}

TEST_F(PodInitTest, FailuresNameTheStep) {
  auto text = sys::SealedMemfd("no-program", "not an executable");
  ASSERT_TRUE(text.ok());
  auto init = StartPodInit(text->get(), -1, "");
  EXPECT_EQ(init.status().message(), "start davit-init: execute: Exec format error (ENOEXEC)");
  EXPECT_EQ(StartPodInit(program_.get(), -1, "/nowhere/at/all").status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_FALSE(StartPodInit(program_.get(), program_.get(), "").ok());
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1) << "a child was left";
}

}  // namespace
}  // namespace davit::sandbox
