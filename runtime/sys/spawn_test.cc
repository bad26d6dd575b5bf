#include "runtime/sys/spawn.h"

#include <fcntl.h>
#include <sys/wait.h>

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
