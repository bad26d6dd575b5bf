#include "images/pull/fix_ups.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "images/pull/lower_lookup.h"
#include "images/testing/temp_dir.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

using testing::Exists;
using testing::MakeDir;
using testing::ReadTestFile;
using testing::TempDir;
using testing::WriteTestFile;

// Layers "0" (lowest) and "1", and a staged layer "s" above them.
class FixUpsTest : public ::testing::Test {
 protected:
  FixUpsTest() {
    for (const char* name : {"0", "1", "s"}) {
      MakeDir(dir_.path(name));
      fds_.push_back(*sys::OpenAt(AT_FDCWD, dir_.path(name), O_RDONLY | O_DIRECTORY));
    }
  }
  absl::Status Apply(const unpack::FixUps& fix_ups) {
    return ApplyFixUps(fds_[2].get(), {fds_[0].get(), fds_[1].get()}, fix_ups);
  }
  struct stat Stat(const std::string& name) {
    struct stat st = {};
    EXPECT_EQ(lstat(dir_.path(name).c_str(), &st), 0) << name;
    return st;
  }
  void MakeWhiteout(const std::string& name) {
    ASSERT_EQ(mknod(dir_.path(name).c_str(), S_IFCHR, makedev(0, 0)), 0);
  }
  void MakeOpaque(const std::string& name) {
    ASSERT_EQ(setxattr(dir_.path(name).c_str(), "trusted.overlay.opaque", "y", 1, 0), 0);
  }

  TempDir dir_;
  std::vector<sys::UniqueFd> fds_;
};

TEST_F(FixUpsTest, AnImplicitParentTakesEverythingFromTheNearestLowerLayer) {
  MakeDir(dir_.path("0/d"), 0711);
  MakeDir(dir_.path("1/d"), 02750);
  ASSERT_EQ(chown(dir_.path("1/d").c_str(), 12, 34), 0);
  ASSERT_EQ(chmod(dir_.path("1/d").c_str(), 02750), 0);
  ASSERT_EQ(setxattr(dir_.path("1/d").c_str(), "trusted.mine", "v", 1, 0), 0);
  MakeOpaque("1/d");
  MakeDir(dir_.path("s/d"));
  ASSERT_TRUE(Apply({{"d"}, {}}).ok());
  const struct stat st = Stat("s/d");
  EXPECT_EQ(st.st_mode & 07777, 02750u);
  EXPECT_EQ(st.st_uid, 12u);
  EXPECT_EQ(st.st_gid, 34u);
  char value = 0;
  EXPECT_EQ(getxattr(dir_.path("s/d").c_str(), "trusted.mine", &value, 1), 1);
  EXPECT_LT(getxattr(dir_.path("s/d").c_str(), "trusted.overlay.opaque", &value, 1), 0);
}

TEST_F(FixUpsTest, AnImplicitParentThatNoLayerHasOrThatIsHiddenStaysAsItIs) {
  MakeDir(dir_.path("0/gone"), 0700);
  MakeWhiteout("1/gone");
  MakeDir(dir_.path("0/cut"));
  MakeDir(dir_.path("0/cut/in"), 0700);
  MakeDir(dir_.path("1/cut"));
  MakeOpaque("1/cut");
  MakeDir(dir_.path("0/mine"), 0700);
  MakeDir(dir_.path("0/real"), 0700);
  ASSERT_EQ(symlink("real", dir_.path("1/link").c_str()), 0);
  for (const char* name : {"s/gone", "s/cut", "s/cut/in", "s/mine", "s/link", "s/none"}) {
    MakeDir(dir_.path(name));
  }
  MakeOpaque("s/mine");
  ASSERT_TRUE(Apply({{"gone", "cut/in", "mine", "link", "none"}, {}}).ok());
  for (const char* name : {"s/gone", "s/cut/in", "s/mine", "s/link", "s/none"}) {
    EXPECT_EQ(Stat(name).st_mode & 07777, 0755u) << name;
  }
}

TEST_F(FixUpsTest, ALinkAcrossLayersCopiesTheFileUpOnce) {
  MakeDir(dir_.path("0/d"), 0700);
  WriteTestFile(dir_.path("0/d/file"), "content");
  ASSERT_EQ(chown(dir_.path("0/d/file").c_str(), 5, 6), 0);
  ASSERT_EQ(chmod(dir_.path("0/d/file").c_str(), 04755), 0);
  ASSERT_TRUE(Apply({{}, {{"one", "d/file"}, {"deep/two", "d/file"}}}).ok());
  EXPECT_EQ(ReadTestFile(dir_.path("s/one")), "content");
  EXPECT_EQ(Stat("s/one").st_ino, Stat("s/deep/two").st_ino);
  EXPECT_EQ(Stat("s/one").st_ino, Stat("s/d/file").st_ino);
  EXPECT_EQ(Stat("s/one").st_mode & 07777, 04755u);
  EXPECT_EQ(Stat("s/one").st_uid, 5u);
  EXPECT_EQ(Stat("s/one").st_mtim.tv_sec, Stat("0/d/file").st_mtim.tv_sec);
  EXPECT_EQ(Stat("s/d").st_mode & 07777, 0700u);
}

TEST_F(FixUpsTest, ALinkToWhatTheLayerItselfRemovesKeepsTheContent) {
  WriteTestFile(dir_.path("0/old"), "content");
  MakeWhiteout("s/old");
  ASSERT_TRUE(Apply({{}, {{"new", "old"}, {"d/again", "old"}}}).ok());
  EXPECT_EQ(ReadTestFile(dir_.path("s/new")), "content");
  EXPECT_EQ(Stat("s/new").st_ino, Stat("s/d/again").st_ino);
  EXPECT_TRUE(S_ISCHR(Stat("s/old").st_mode));
}

TEST_F(FixUpsTest, LinksToSymbolicLinksAndFifosWork) {
  ASSERT_EQ(symlink("/etc/passwd", dir_.path("0/sym").c_str()), 0);
  ASSERT_EQ(mkfifo(dir_.path("0/fifo").c_str(), 0600), 0);
  ASSERT_TRUE(Apply({{}, {{"a", "sym"}, {"b", "fifo"}}}).ok());
  char target[64] = {};
  EXPECT_GT(readlink(dir_.path("s/a").c_str(), target, sizeof(target) - 1), 0);
  EXPECT_STREQ(target, "/etc/passwd");
  EXPECT_TRUE(S_ISFIFO(Stat("s/b").st_mode));
}

TEST_F(FixUpsTest, ALinkToNothingOrToADirectoryIsRefused) {
  MakeDir(dir_.path("0/dir"));
  WriteTestFile(dir_.path("0/hidden"), "x");
  MakeWhiteout("1/hidden");
  for (const char* target : {"none", "dir", "hidden", "none/below"}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(Apply({{}, {{"l", target}}}))) << target;
  }
}

TEST_F(FixUpsTest, ALinkThroughASymbolicLinkOfALowerLayerDoesNotLeave) {
  WriteTestFile(dir_.path("secret"), "host");
  ASSERT_EQ(symlink(dir_.path().c_str(), dir_.path("0/out").c_str()), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(Apply({{}, {{"l", "out/secret"}}})));
  ASSERT_EQ(symlink(dir_.path().c_str(), dir_.path("s/out").c_str()), 0);
  WriteTestFile(dir_.path("0/f"), "f");
  (void)Apply({{}, {{"out/planted", "f"}}});
  EXPECT_FALSE(Exists(dir_.path("planted")));
}

}  // namespace
}  // namespace davit::images
