#include "sandbox/lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

TEST(LockTest, ASecondHolderIsRefusedWithThePidOfTheFirst) {
  const std::string directory = absl::StrCat(testing::TempDir(), "/lock_test.", getpid());
  ASSERT_TRUE(sys::MakeDirs(directory, 0700).ok());
  {
    auto first = LockDirectory(directory);
    ASSERT_TRUE(first.ok()) << first.status();
    auto second = LockDirectory(directory);
    EXPECT_EQ(second.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(second.status().message().find(absl::StrCat("pid ", getpid())),
              absl::string_view::npos)
        << second.status();
  }
  EXPECT_TRUE(LockDirectory(directory).ok()) << "the lock ends with its descriptor";
  EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, directory).ok());
}

TEST(LockTest, AChildOfAKilledHolderThatStillHasItIsWaitedFor) {
  const std::string directory = absl::StrCat(testing::TempDir(), "/lock_child.", getpid());
  ASSERT_TRUE(sys::MakeDirs(directory, 0700).ok());
  int locked[2];
  ASSERT_EQ(pipe(locked), 0);
  const pid_t holder = fork();
  if (holder == 0) {
    const auto lock = LockDirectory(directory);
    if (fork() == 0) {
      usleep(300 * 1000);
      _exit(0);
    }
    if (write(locked[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char x;
  ASSERT_EQ(read(locked[0], &x, 1), 1);
  ASSERT_EQ(kill(holder, SIGKILL), 0);
  siginfo_t info;
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(holder), &info, WEXITED | WNOWAIT), 0);
  // Not reaped: a zombie holds nothing either.
  const auto next = LockDirectory(directory);
  EXPECT_TRUE(next.ok()) << next.status();
  EXPECT_EQ(waitpid(holder, nullptr, 0), holder);
  EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, directory).ok());
  close(locked[0]);
  close(locked[1]);
}

TEST(LockTest, AFileOfThatNameThatIsSomebodyElsesIsKept) {
  const std::string directory = absl::StrCat(testing::TempDir(), "/lock_foreign.", getpid());
  ASSERT_TRUE(sys::MakeDirs(directory, 0700).ok());
  const std::string path = directory + "/davitd.lock", notes = "Somebody else's notes.";
  auto file = sys::OpenAt(AT_FDCWD, path, O_WRONLY | O_CREAT, 0600);
  ASSERT_TRUE(file.ok() && sys::WriteAll(file->get(), notes, path).ok());
  const auto lock = LockDirectory(directory);
  EXPECT_EQ(lock.status().code(), absl::StatusCode::kFailedPrecondition) << lock.status();
  EXPECT_NE(lock.status().message().find(path), absl::string_view::npos) << lock.status();
  EXPECT_EQ(sys::ReadFileAt(AT_FDCWD, path, 4096).value_or(""), notes);
  EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, directory).ok());
}

TEST(LockTest, AMissingDirectoryIsAnErrorThatNamesIt) {
  const auto lock = LockDirectory("/nonexistent/davit");
  EXPECT_EQ(lock.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(lock.status().message().find("/nonexistent/davit"), absl::string_view::npos);
}

}  // namespace
}  // namespace davit::sandbox
