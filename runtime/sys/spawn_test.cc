#include "runtime/sys/spawn.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sys {
namespace {

TEST(SpawnTest, RunsACommandAndCollectsItsOutput) {
  auto result = RunCommand({.path = "/bin/sh",
                            .argv = {"sh", "-c", "cat; echo err >&2; exit 3"},
                            .environment = {"PATH=/bin"}},
                           "input", 1024, absl::InfiniteFuture());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "input");
  EXPECT_EQ(result->err, "err\n");
  EXPECT_EQ(WEXITSTATUS(result->wait_status), 3);
}

TEST(SpawnTest, ACommandThatDoesNotReadItsInputIsNoDanger) {
  const std::string input(1 << 20, 'x');
  auto result =
      RunCommand({.path = "/bin/true", .argv = {"true"}}, input, 1024, absl::InfiniteFuture());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->wait_status, 0);
}

TEST(SpawnTest, PassesDescriptorsWithHighNumbersAndInAnyOrder) {
  auto one = SealedMemfd("one", "1");
  auto two = SealedMemfd("two", "2");
  ASSERT_TRUE(one.ok() && two.ok());
  UniqueFd high_one(fcntl(one->get(), F_DUPFD_CLOEXEC, 512));
  UniqueFd high_two(fcntl(two->get(), F_DUPFD_CLOEXEC, 513));
  // Each is wanted where the other, or an earlier one's copy, may be.
  auto result = RunCommand({.path = "/bin/sh",
                            .argv = {"sh", "-c", "cat <&3; cat <&4; cat <&5"},
                            .environment = {"PATH=/bin"},
                            .fds = {{high_two.get(), 3}, {high_one.get(), 4}, {two->get(), 5}}},
                           "", 1024, absl::InfiniteFuture());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "21");  // 3 and 5 share one offset: the second read finds its end
}

TEST(SpawnTest, ReportsAFailedExec) {
  auto process = Spawn({.path = "/no/such/file", .argv = {"x"}});
  EXPECT_EQ(process.status().code(), absl::StatusCode::kNotFound);
}

TEST(SpawnTest, KillsTheGroupAtTheDeadline) {
  auto result = RunCommand({.path = "/bin/sh", .argv = {"sh", "-c", "sleep 1000"}}, "", 1024,
                           absl::Now() + absl::Milliseconds(50));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(SpawnTest, PassesOnlyTheNamedDescriptors) {
  auto extra = SealedMemfd("extra", "content");
  ASSERT_TRUE(extra.ok());
  UniqueFd leaked(open("/dev/zero", O_RDONLY));  // deliberately not O_CLOEXEC
  auto result = RunCommand({.path = "/bin/sh",
                            .argv = {"sh", "-c", "cat <&9; ls /proc/self/fd | tr '\\n' ' '"},
                            .environment = {"PATH=/bin:/usr/bin"},
                            .fds = {{extra->get(), 9}}},
                           "", 1024, absl::InfiniteFuture());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->out, "content0 1 2 3 9 ");  // 3 is ls reading the directory
}

TEST(SpawnTest, AProgramIsNotStartedWithoutItsDescriptors) {
  auto text = ReadFileAt(AT_FDCWD, "/bin/true", 16 << 20);
  ASSERT_TRUE(text.ok());
  auto program = SealedMemfd("true", *text);
  auto extra = SealedMemfd("extra", "content");
  ASSERT_TRUE(program.ok() && extra.ok());
  const pid_t pid = fork();
  if (pid == 0) {
    int refused = 0;
    // From a table that is full to one that has room for everything.
    const UniqueFd next(open("/dev/null", O_RDONLY | O_CLOEXEC));
    for (rlim_t room = 0; room < 8; ++room) {
      const rlimit limit{static_cast<rlim_t>(next.get()) + 1 + room,
                         static_cast<rlim_t>(next.get()) + 100};
      setrlimit(RLIMIT_NOFILE, &limit);
      const auto process =
          Spawn({.executable_fd = program->get(), .argv = {"true"}, .fds = {{extra->get(), 3}}});
      if (process.ok()) {
        const auto status = WaitPidfd(process->pidfd.get(), absl::InfiniteFuture());
        if (!status.ok() || *status != 0) _exit(100);
      } else if (absl::IsResourceExhausted(process.status())) {
        ++refused;
      } else {
        _exit(101);
      }
    }
    _exit(refused > 1 && refused < 8 ? 0 : 102);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(SpawnTest, ExecutesASealedMemfd) {
  auto text = ReadFileAt(AT_FDCWD, "/bin/true", 16 << 20);
  ASSERT_TRUE(text.ok());
  auto memfd = SealedMemfd("true", *text);
  ASSERT_TRUE(memfd.ok());
  auto process = Spawn({.executable_fd = memfd->get(), .argv = {"true"}});
  ASSERT_TRUE(process.ok()) << process.status();
  auto status = WaitPidfd(process->pidfd.get(), absl::InfiniteFuture());
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(*status, 0);
}

}  // namespace
}  // namespace davit::sys
