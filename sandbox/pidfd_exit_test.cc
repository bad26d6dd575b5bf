#include "sandbox/pidfd_exit.h"

#include <sys/wait.h>

#include "gtest/gtest.h"
#include "runtime/sys/features.h"
#include "runtime/sys/spawn.h"

namespace davit::sandbox {
namespace {

TEST(PidfdExitTest, TheStatusOfAReapedProcessIsKnownToAnyHolderOfItsPidfd) {
  sys::SpawnOptions options;
  options.path = "/bin/sh";
  options.argv = {"sh", "-c", "read x; exit 42"};
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  sys::UniqueFd reader(fds[0]), writer(fds[1]);
  options.fds = {{reader.get(), 0}};
  auto process = sys::Spawn(options);
  ASSERT_TRUE(process.ok()) << process.status();
  EXPECT_EQ(ExitStatusOf(process->pidfd.get()), std::nullopt) << "it lives";
  writer.reset();
  ASSERT_TRUE(sys::WaitPidfd(process->pidfd.get(), absl::InfiniteFuture()).ok());
  const auto status = ExitStatusOf(process->pidfd.get());
  if (!sys::ProbeKernel().pidfd_exit_info) {
    EXPECT_EQ(status, std::nullopt);
    return;
  }
  ASSERT_TRUE(status.has_value());
  EXPECT_TRUE(WIFEXITED(*status));
  EXPECT_EQ(WEXITSTATUS(*status), 42);
}

}  // namespace
}  // namespace davit::sandbox
