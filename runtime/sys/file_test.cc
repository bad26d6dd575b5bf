#include "runtime/sys/file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "gtest/gtest.h"

namespace davit::sys {
namespace {

class FileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/davit-file-test-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    path_ = path;
    auto dir = OpenDirAt(AT_FDCWD, path_);
    ASSERT_TRUE(dir.ok());
    dir_ = *std::move(dir);
  }
  void TearDown() override { ASSERT_TRUE(RemoveTreeAt(AT_FDCWD, path_).ok()); }

  std::string path_;
  UniqueFd dir_;
};

TEST_F(FileTest, AtomicWriteReplacesAndLeavesNoTemporary) {
  ASSERT_TRUE(WriteFileAtomic(dir_.get(), "a", "one", 0600, Durability::kProcess).ok());
  ASSERT_TRUE(WriteFileAtomic(dir_.get(), "a", "two", 0640, Durability::kPower).ok());
  EXPECT_EQ(ReadFileAt(dir_.get(), "a", 100).value(), "two");
  struct stat st;
  ASSERT_EQ(fstatat(dir_.get(), "a", &st, 0), 0);
  EXPECT_EQ(st.st_mode & 07777, 0640u);
  EXPECT_NE(fstatat(dir_.get(), ".a.tmp", &st, 0), 0);
}

TEST_F(FileTest, ReadRefusesAFileOverTheLimit) {
  ASSERT_TRUE(WriteFileAtomic(dir_.get(), "a", "12345", 0600, Durability::kProcess).ok());
  EXPECT_TRUE(ReadFileAt(dir_.get(), "a", 5).ok());
  EXPECT_EQ(ReadFileAt(dir_.get(), "a", 4).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(FileTest, ReadOfAFifoDoesNotHang) {
  ASSERT_EQ(mkfifoat(dir_.get(), "fifo", 0600), 0);
  EXPECT_EQ(ReadFileAt(dir_.get(), "fifo", 5).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(FileTest, RemoveTreeRemovesAllAndFollowsNoLink) {
  ASSERT_TRUE(MakeDirs(path_ + "/t/a/b/c", 0755).ok());
  ASSERT_TRUE(MakeDirs(path_ + "/outside", 0755).ok());
  ASSERT_TRUE(WriteFileAtomic(dir_.get(), "keep", "x", 0600, Durability::kProcess).ok());
  ASSERT_EQ(symlinkat("../outside", dir_.get(), "t/link"), 0);
  ASSERT_TRUE(RemoveTreeAt(dir_.get(), "t").ok());
  struct stat st;
  EXPECT_NE(fstatat(dir_.get(), "t", &st, 0), 0);
  EXPECT_EQ(fstatat(dir_.get(), "outside", &st, 0), 0);
  EXPECT_TRUE(RemoveTreeAt(dir_.get(), "t").ok());
}

TEST_F(FileTest, RemoveTreeTakesAnyDepthWithFewDescriptors) {
  constexpr int kDepth = 3000;  // far more than descriptors or PATH_MAX allow
  ASSERT_TRUE(MakeDirAt(dir_.get(), "deep", 0755).ok());
  UniqueFd at(openat(dir_.get(), "deep", O_PATH | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < kDepth; ++i) {
    ASSERT_EQ(mkdirat(at.get(), "d", 0755), 0);
    UniqueFd next(openat(at.get(), "d", O_PATH | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(next.ok());
    at = std::move(next);
  }
  at.reset();
  EXPECT_TRUE(RemoveTreeAt(dir_.get(), "deep").ok());
  struct stat st;
  EXPECT_NE(fstatat(dir_.get(), "deep", &st, 0), 0);
}

TEST_F(FileTest, SealedMemfdCannotBeWritten) {
  auto fd = SealedMemfd("x", "abc");
  ASSERT_TRUE(fd.ok());
  EXPECT_LT(write(fd->get(), "d", 1), 0);
  EXPECT_EQ(ReadFd(fd->get(), 10, "x").value(), "abc");
}

}  // namespace
}  // namespace davit::sys
