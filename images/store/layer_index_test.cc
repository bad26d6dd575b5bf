#include "images/store/layer_index.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/strings/match.h"
#include "images/testing/temp_dir.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

using testing::MakeDir;
using testing::TempDir;
using testing::WriteTestFile;

class LayerIndexTest : public ::testing::Test {
 protected:
  LayerIndexTest() {
    MakeDir(dir_.path("a"));
    MakeDir(dir_.path("a/b"));
    WriteTestFile(dir_.path("a/b/file"), std::string(10'000, 'x'));
    EXPECT_EQ(link(dir_.path("a/b/file").c_str(), dir_.path("z").c_str()), 0);
    EXPECT_EQ(symlink("/etc/passwd", dir_.path("s").c_str()), 0);
    top_ = *sys::OpenAt(AT_FDCWD, dir_.path(), O_RDONLY | O_DIRECTORY);
  }
  TempDir dir_;
  sys::UniqueFd top_;
};

TEST_F(LayerIndexTest, CountsAFileWithTwoLinksOnce) {
  const auto summary = SummariseTree(top_.get());
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->inodes, 5u);  // top, a, a/b, the file, the symbolic link
  EXPECT_GE(summary->bytes, 10'000u);
  EXPECT_LT(summary->bytes, 60'000u);
}

TEST_F(LayerIndexTest, TellsWhenATreeIsNoLongerWhole) {
  const std::string index = SummariseTree(top_.get())->index;
  EXPECT_TRUE(CheckTree(top_.get(), index).ok());
  ASSERT_EQ(truncate(dir_.path("a/b/file").c_str(), 0), 0);  // what a power cut leaves
  const absl::Status shorter = CheckTree(top_.get(), index);
  EXPECT_TRUE(absl::IsDataLoss(shorter));
  EXPECT_TRUE(absl::StrContains(shorter.message(), "a/b/file")) << shorter;
  ASSERT_EQ(truncate(dir_.path("a/b/file").c_str(), 10'000), 0);
  EXPECT_TRUE(CheckTree(top_.get(), index).ok());
  ASSERT_EQ(chmod(dir_.path("a").c_str(), 0700), 0);
  EXPECT_TRUE(absl::IsDataLoss(CheckTree(top_.get(), index)));
  ASSERT_EQ(chmod(dir_.path("a").c_str(), 0755), 0);
  ASSERT_EQ(unlink(dir_.path("z").c_str()), 0);
  EXPECT_TRUE(absl::IsDataLoss(CheckTree(top_.get(), index)));
  EXPECT_TRUE(absl::IsDataLoss(CheckTree(top_.get(), "garbage")));
}

TEST_F(LayerIndexTest, WalksATreeDeeperThanTheDescriptorLimit) {
  sys::UniqueFd at = *sys::OpenAt(AT_FDCWD, dir_.path("a"), O_RDONLY | O_DIRECTORY);
  constexpr int kDepth = 200;
  for (int i = 0; i < kDepth; ++i) {
    ASSERT_EQ(mkdirat(at.get(), "d", 0755), 0);
    at = *sys::OpenAt(at.get(), "d", O_RDONLY | O_DIRECTORY);
  }
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit few = {64, limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
  const auto summary = SummariseTree(top_.get());
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  ASSERT_TRUE(summary.ok()) << summary.status();
  EXPECT_EQ(summary->inodes, 5u + kDepth);
}

}  // namespace
}  // namespace davit::images
