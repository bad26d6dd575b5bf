#include "sandbox/cni/invoke.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"

namespace davit::sandbox::cni {
namespace {

using testing::HasSubstr;

// Plugins are shell scripts.
class InvokeTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-cni-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    path_ = pattern;
  }
  void TearDown() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, path_).ok()); }

  absl::StatusOr<std::string> Run(const std::string& script,
                                  absl::Duration timeout = absl::Seconds(30)) {
    const std::string file = path_ + "/plugin";
    {
      auto fd = sys::OpenAt(AT_FDCWD, file, O_WRONLY | O_CREAT | O_TRUNC, 0755);
      EXPECT_TRUE(sys::WriteAll(fd->get(), "#!/bin/sh\n" + script, file).ok());
    }
    Invocation invocation;
    invocation.plugin = "plugin";
    invocation.bin_dirs = {"/nonexistent", path_};
    invocation.command = "ADD";
    invocation.container_id = "abc";
    invocation.netns = "/run/netns/x";
    invocation.interface = "eth0";
    invocation.args = "IgnoreUnknown=1";
    invocation.input = R"({"name":"n"})";
    invocation.deadline = absl::Now() + timeout;
    invocation.lock_fd = lock_fd_;
    return Invoke(invocation);
  }

  std::string path_;
  int lock_fd_ = -1;
};

TEST_F(InvokeTest, APluginGetsItsEnvironmentAndInputAndNothingElse) {
  setenv("DAVIT_SECRET", "x", 1);
  const auto out =
      Run("echo $CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $CNI_PATH"
          " [$DAVIT_SECRET]; cat; command -v ip >/dev/null || echo no ip");
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(*out, absl::StrCat("ADD abc /run/netns/x eth0 IgnoreUnknown=1 /nonexistent:", path_,
                               " []\n{\"name\":\"n\"}"));
}

TEST_F(InvokeTest, AFailureCarriesThePluginsOwnWords) {
  auto out = Run(R"(echo '{"code":7,"msg":"no address","details":"pool is empty"}'; exit 1)");
  EXPECT_EQ(out.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(out.status().message()),
              HasSubstr("plugin: ADD: no address; pool is empty"));
  out = Run(R"(echo '{"code":11,"msg":"busy"}'; exit 1)");
  EXPECT_EQ(out.status().code(), absl::StatusCode::kUnavailable);
  out = Run("echo panic: nil map >&2; exit 2");
  EXPECT_THAT(std::string(out.status().message()), HasSubstr("panic: nil map (exit status 2)"));
  out = Run("exit 3");
  EXPECT_THAT(std::string(out.status().message()), HasSubstr("exit status 3"));
  out = Run("kill -9 $$");
  EXPECT_THAT(std::string(out.status().message()), HasSubstr("killed by signal 9"));
}

TEST_F(InvokeTest, AHangingPluginIsKilledWithItsChildren) {
  const absl::Time start = absl::Now();
  const auto out =
      Run(absl::StrCat("sleep 1000 & echo $! >", path_, "/child; wait"), absl::Milliseconds(300));
  EXPECT_EQ(out.status().code(), absl::StatusCode::kDeadlineExceeded) << out.status();
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  int child = 0;
  ASSERT_TRUE(absl::SimpleAtoi(*sys::ReadFileAt(AT_FDCWD, path_ + "/child", 100), &child));
  // Gone already, or about to be.
  if (const auto pidfd = sys::PidfdOpen(child); pidfd.ok()) {
    pollfd entry{pidfd->get(), POLLIN, 0};
    EXPECT_EQ(poll(&entry, 1, 20000), 1);
  }
}

TEST_F(InvokeTest, ADescendantThatKeepsTheOutputOpenIsNotWaitedFor) {
  const absl::Time start = absl::Now();
  const auto out = Run("sleep 1000 & echo done");
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(*out, "done\n");
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
}

TEST_F(InvokeTest, OutputIsBounded) {
  EXPECT_EQ(Run("head -c 3000000 /dev/zero").status().code(), absl::StatusCode::kResourceExhausted);
  const auto failing = Run("head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1");
  EXPECT_LT(failing.status().message().size(), 4096u);
}

TEST_F(InvokeTest, APluginThatDoesNotReadItsInputIsNoProblem) {
  EXPECT_TRUE(Run("exec <&-; exit 0").ok());
}

TEST_F(InvokeTest, AMissingPluginIsToldWithWhereItWasLookedFor) {
  Invocation invocation;
  invocation.plugin = "none";
  invocation.bin_dirs = {"/nonexistent", path_};
  invocation.deadline = absl::InfiniteFuture();
  const auto out = Invoke(invocation);
  EXPECT_EQ(out.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(out.status().message()), HasSubstr(path_));
}

TEST_F(InvokeTest, ThePluginInheritsTheLockAndNoOtherDescriptor) {
  const std::string lock = path_ + "/lock";
  const sys::UniqueFd fd(open(lock.c_str(), O_RDWR | O_CREAT, 0600));  // not close-on-exec
  lock_fd_ = fd.get();
  const auto out = Run("readlink /proc/$$/fd/3; exec ls /proc/self/fd");
  ASSERT_TRUE(out.ok()) << out.status();
  // 4 is what ls reads the directory through.
  EXPECT_EQ(*out, lock + "\n0\n1\n2\n3\n4\n");
}

}  // namespace
}  // namespace davit::sandbox::cni
