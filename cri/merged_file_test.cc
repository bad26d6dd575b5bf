#include "cri/merged_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

// Three layers in a temporary directory, `layers_[0]` on top.
class MergedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = testing::TempDir() + "/merged.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    for (const char* name : {"top", "middle", "bottom"}) {
      layers_.push_back(dir_ + "/" + name);
      ASSERT_EQ(::mkdir(layers_.back().c_str(), 0755), 0);
    }
  }
  void TearDown() override {
    const size_t slash = dir_.rfind('/');
    auto parent = sys::OpenDirAt(AT_FDCWD, dir_.substr(0, slash));
    ASSERT_TRUE(parent.ok());
    EXPECT_TRUE(sys::RemoveTreeAt(parent->get(), dir_.substr(slash + 1)).ok());
  }

  void Write(int layer, const std::string& path, const std::string& content) {
    const std::string full = layers_[layer] + path;
    ASSERT_TRUE(sys::MakeDirs(full.substr(0, full.rfind('/')), 0755).ok());
    auto fd = sys::OpenAt(AT_FDCWD, full, O_WRONLY | O_CREAT, 0644);
    ASSERT_TRUE(fd.ok()) << fd.status();
    ASSERT_TRUE(sys::WriteAll(fd->get(), content, "test file").ok());
  }
  void Link(int layer, const std::string& path, const std::string& target) {
    const std::string full = layers_[layer] + path;
    ASSERT_TRUE(sys::MakeDirs(full.substr(0, full.rfind('/')), 0755).ok());
    ASSERT_EQ(::symlink(target.c_str(), full.c_str()), 0);
  }
  void Whiteout(int layer, const std::string& path) {
    const std::string full = layers_[layer] + path;
    ASSERT_TRUE(sys::MakeDirs(full.substr(0, full.rfind('/')), 0755).ok());
    ASSERT_EQ(::mknod(full.c_str(), S_IFCHR, makedev(0, 0)), 0);
  }
  absl::StatusOr<std::string> Read(const std::string& path, size_t limit = 1000) {
    return ReadMergedFile(layers_, path, limit);
  }

  std::string dir_;
  std::vector<std::string> layers_;
};

TEST_F(MergedFileTest, TheTopmostLayerWins) {
  Write(2, "/etc/passwd", "bottom");
  EXPECT_EQ(Read("/etc/passwd").value_or("?"), "bottom");
  Write(1, "/etc/passwd", "middle");
  Write(0, "/etc/other", "x");
  EXPECT_EQ(Read("/etc/passwd").value_or("?"), "middle");
}

TEST_F(MergedFileTest, WhiteoutsHideWhatIsBelow) {
  Write(2, "/etc/passwd", "bottom");
  Whiteout(1, "/etc/passwd");
  EXPECT_EQ(Read("/etc/passwd").status().code(), absl::StatusCode::kNotFound);
  Write(0, "/etc/passwd", "top");
  EXPECT_EQ(Read("/etc/passwd").value_or("?"), "top");
}

TEST_F(MergedFileTest, AWhiteoutOfTheDirectoryHidesItsFiles) {
  Write(2, "/etc/passwd", "bottom");
  Whiteout(1, "/etc");
  EXPECT_EQ(Read("/etc/passwd").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(MergedFileTest, AnOpaqueDirectoryHidesTheFilesBelowButNotItsOwn) {
  Write(2, "/etc/passwd", "bottom");
  Write(1, "/etc/group", "middle");
  ASSERT_EQ(::setxattr((layers_[1] + "/etc").c_str(), "trusted.overlay.opaque", "y", 1, 0), 0);
  EXPECT_EQ(Read("/etc/passwd").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(Read("/etc/group").value_or("?"), "middle");
}

TEST_F(MergedFileTest, AFileInADirectorysPlaceHidesWhatIsBelow) {
  Write(2, "/etc/passwd", "bottom");
  Write(1, "/etc", "a file");
  EXPECT_EQ(Read("/etc/passwd").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(MergedFileTest, LinksAreFollowedAcrossLayersAndNeverLeaveThem) {
  Write(2, "/real/passwd", "linked");
  Link(1, "/etc/passwd", "../../../real/passwd");
  EXPECT_EQ(Read("/etc/passwd").value_or("?"), "linked");
  Link(0, "/etc/group", "/real/passwd");
  EXPECT_EQ(Read("/etc/group").value_or("?"), "linked");
  // The host has this file, the image has not.
  Link(0, "/etc/shadow", "/proc/self/status");
  EXPECT_EQ(Read("/etc/shadow").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(MergedFileTest, ALinkedDirectoryIsFollowed) {
  Write(2, "/usr/etc/passwd", "usr");
  Link(1, "/etc", "usr/etc");
  EXPECT_EQ(Read("/etc/passwd").value_or("?"), "usr");
}

TEST_F(MergedFileTest, DirectoriesAreFoundThroughLinksButFilesAreNone) {
  Write(2, "/usr/data/file", "x");
  Link(1, "/data", "usr/data");
  EXPECT_TRUE(MergedDirectoryExists(layers_, "/data"));
  EXPECT_TRUE(MergedDirectoryExists(layers_, "/data/.."));
  EXPECT_TRUE(MergedDirectoryExists(layers_, "/"));
  EXPECT_FALSE(MergedDirectoryExists(layers_, "/data/file"));
  EXPECT_FALSE(MergedDirectoryExists(layers_, "/nothing"));
}

TEST_F(MergedFileTest, ALongWayIsGivenUpAndNotWalkedForHours) {
  std::string deep;
  for (int i = 0; i < 60; ++i) deep += "/d";
  Write(2, deep + "/passwd", "deep");
  EXPECT_EQ(Read(deep + "/passwd").value_or("?"), "deep");
  // Short, but each step starts from the top.
  std::string way = deep;
  for (int i = 0; i < 150; ++i) way += "/../d";
  Link(0, "/etc/passwd", way + "/passwd");
  EXPECT_EQ(Read("/etc/passwd").status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(MergedFileTest, LoopsFifosDirectoriesAndLargeFilesAreRefused) {
  Link(0, "/a", "b");
  Link(0, "/b", "a");
  EXPECT_EQ(Read("/a").status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(::mkfifo((layers_[0] + "/fifo").c_str(), 0644), 0);
  EXPECT_EQ(Read("/fifo").status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(::mkdir((layers_[0] + "/dir").c_str(), 0755), 0);
  EXPECT_EQ(Read("/dir").status().code(), absl::StatusCode::kFailedPrecondition);
  Write(0, "/large", std::string(101, 'x'));
  EXPECT_EQ(Read("/large", 100).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Read("/large", 101).ok());
}

}  // namespace
}  // namespace davit::cri
