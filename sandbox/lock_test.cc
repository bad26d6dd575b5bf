#include "sandbox/lock.h"

#include <fcntl.h>
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

TEST(LockTest, AMissingDirectoryIsAnErrorThatNamesIt) {
  const auto lock = LockDirectory("/nonexistent/davit");
  EXPECT_EQ(lock.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(lock.status().message().find("/nonexistent/davit"), absl::string_view::npos);
}

}  // namespace
}  // namespace davit::sandbox
