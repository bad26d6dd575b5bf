#include "sandbox/writable_layers.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "sandbox/records.h"

namespace davit::sandbox {
namespace {

class WritableLayersTest : public ::testing::Test {
 protected:
  WritableLayersTest() : root_(absl::StrCat(testing::TempDir(), "/layers_test.", getpid())) {}
  ~WritableLayersTest() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, root_).ok()); }
  const std::string root_;
  const std::string id_ = std::string(64, 'b');
};

TEST_F(WritableLayersTest, ALayerIsGoneAtOnceAndItsFilesSoon) {
  {
    auto layers = WritableLayers::Open(root_);
    ASSERT_TRUE(layers.ok()) << layers.status();
    ASSERT_TRUE((*layers)->Make(id_, root_, {}).ok());
    EXPECT_EQ((*layers)->Make(id_, root_, {}).code(), absl::StatusCode::kAlreadyExists);
    ASSERT_TRUE(sys::MakeDirs((*layers)->DirectoryOf(id_) + "/upper/a/b/c", 0755).ok());
    EXPECT_EQ(*(*layers)->List(), std::vector<std::string>{id_});
    EXPECT_TRUE((*layers)->Remove(id_).ok());
    EXPECT_TRUE((*layers)->List()->empty());
    EXPECT_TRUE((*layers)->Remove(id_).ok()) << "a missing layer is success";
  }
  EXPECT_TRUE(ListDirectory(root_ + "/trash")->empty());
}

TEST_F(WritableLayersTest, ALayerThatCannotBeUnlinkedIsTriedAgainUntilItCan) {
  auto layers = WritableLayers::Open(root_);
  ASSERT_TRUE(layers.ok()) << layers.status();
  ASSERT_TRUE((*layers)->Make(id_, root_, {}).ok());
  const std::string busy = (*layers)->DirectoryOf(id_) + "/upper/busy";
  ASSERT_TRUE(sys::MakeDirs(busy, 0755).ok());
  ASSERT_EQ(mount("davit-test", busy.c_str(), "tmpfs", 0, "size=64k"), 0);
  ASSERT_TRUE((*layers)->Remove(id_).ok());
  usleep(50'000);
  const auto left = ListDirectory(root_ + "/trash");
  ASSERT_EQ(left->size(), 1u);
  ASSERT_EQ(umount(absl::StrCat(root_, "/trash/", left->front(), "/upper/busy").c_str()), 0);
  for (int i = 0; i < 1000 && !ListDirectory(root_ + "/trash")->empty(); ++i) usleep(10'000);
  EXPECT_TRUE(ListDirectory(root_ + "/trash")->empty());
}

TEST_F(WritableLayersTest, TheUpperDirectoryLooksLikeTheImagesRoot) {
  auto layers = WritableLayers::Open(root_);
  ASSERT_TRUE(layers.ok()) << layers.status();
  const std::string image = root_ + "/image";
  ASSERT_TRUE(sys::MakeDirs(image, 0755).ok());
  ASSERT_EQ(chown(image.c_str(), 12, 34), 0);
  ASSERT_EQ(chmod(image.c_str(), 03751), 0);
  ASSERT_EQ(setxattr(image.c_str(), "user.kind", "root", 4, 0), 0);
  ASSERT_EQ(setxattr(image.c_str(), "trusted.overlay.opaque", "y", 1, 0), 0);
  const absl::Status made = (*layers)->Make(id_, image, {});
  ASSERT_TRUE(made.ok()) << made;
  const std::string upper = (*layers)->DirectoryOf(id_) + "/upper";
  struct stat st;
  ASSERT_EQ(stat(upper.c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 12u);
  EXPECT_EQ(st.st_gid, 34u);
  EXPECT_EQ(st.st_mode & 07777, 03751u);
  char value[8];
  ASSERT_EQ(getxattr(upper.c_str(), "user.kind", value, sizeof value), 4);
  EXPECT_LT(getxattr(upper.c_str(), "trusted.overlay.opaque", value, sizeof value), 0);
}

TEST_F(WritableLayersTest, TheOwnerIsMappedIntoTheContainersUserNamespace) {
  auto layers = WritableLayers::Open(root_);
  ASSERT_TRUE(layers.ok()) << layers.status();
  const std::string image = root_ + "/image";
  ASSERT_TRUE(sys::MakeDirs(image, 0755).ok());
  ASSERT_EQ(chown(image.c_str(), 12, 4000), 0);
  ASSERT_TRUE((*layers)->Make(id_, image, {{{0, 100000, 1000}}, {{0, 200000, 1000}}}).ok());
  struct stat st;
  ASSERT_EQ(stat(((*layers)->DirectoryOf(id_) + "/upper").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 100012u);
  EXPECT_EQ(st.st_gid, 200000u) << "one that is not mapped becomes root";
}

TEST_F(WritableLayersTest, TrashOfAKilledDaemonIsEmptiedAtTheNextStart) {
  ASSERT_TRUE(sys::MakeDirs(root_ + "/trash/old.1/deep/tree", 0755).ok());
  { ASSERT_TRUE(WritableLayers::Open(root_).ok()); }
  EXPECT_TRUE(ListDirectory(root_ + "/trash")->empty());
}

TEST_F(WritableLayersTest, OnlyIdsAreListed) {
  auto layers = WritableLayers::Open(root_);
  ASSERT_TRUE(sys::MakeDirs(root_ + "/containers/lost+found", 0755).ok());
  EXPECT_TRUE((*layers)->List()->empty());
}

}  // namespace
}  // namespace davit::sandbox
