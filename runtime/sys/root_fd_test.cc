#include "runtime/sys/root_fd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sys {
namespace {

class RootFdTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char path[] = "/tmp/davit-root-test-XXXXXX";
    ASSERT_NE(mkdtemp(path), nullptr);
    path_ = path;
    ASSERT_TRUE(MakeDirs(path_ + "/root/etc", 0755).ok());
    ASSERT_TRUE(MakeDirs(path_ + "/secret", 0755).ok());
    auto root = RootFd::Open(path_ + "/root");
    ASSERT_TRUE(root.ok());
    root_ = *std::move(root);
  }
  void TearDown() override { ASSERT_TRUE(RemoveTreeAt(AT_FDCWD, path_).ok()); }

  std::string path_;
  RootFd root_;
};

TEST_F(RootFdTest, DotDotStaysInside) {
  EXPECT_FALSE(root_.OpenAt("../secret", O_PATH).ok());
  EXPECT_TRUE(root_.OpenAt("../etc", O_PATH).ok());
}

TEST_F(RootFdTest, AbsoluteLinksAreTakenFromTheRoot) {
  ASSERT_EQ(symlinkat("/etc", root_.get(), "link"), 0);
  ASSERT_EQ(symlinkat((path_ + "/secret").c_str(), root_.get(), "out"), 0);
  EXPECT_TRUE(root_.OpenAt("link", O_PATH).ok());
  EXPECT_EQ(root_.OpenAt("out", O_PATH).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RootFdTest, MakeDirsFollowsLinksOnlyInside) {
  ASSERT_EQ(symlinkat("../../../secret", root_.get(), "up"), 0);
  ASSERT_TRUE(MakeDirs(path_ + "/root/secret", 0755).ok());
  ASSERT_TRUE(root_.MakeDirs("up/a/b", 0755).ok());
  EXPECT_TRUE(root_.OpenAt("secret/a/b", O_PATH).ok());
  EXPECT_NE(access((path_ + "/secret/a").c_str(), F_OK), 0);
}

TEST_F(RootFdTest, MakeFileMakesParents) {
  ASSERT_TRUE(root_.MakeFile("/x/y/file", 0644).ok());
  EXPECT_EQ(root_.ReadRegular("x/y/file", 10).value(), "");
  EXPECT_TRUE(root_.MakeFile("/x/y/file", 0644).ok());
}

TEST_F(RootFdTest, ReadRegularRefusesAFifo) {
  ASSERT_EQ(mkfifoat(root_.get(), "fifo", 0600), 0);
  EXPECT_FALSE(root_.ReadRegular("fifo", 10).ok());
}

}  // namespace
}  // namespace davit::sys
