#include "sandbox/writable_layers.h"

#include <fcntl.h>
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
    ASSERT_TRUE((*layers)->Make(id_).ok());
    EXPECT_EQ((*layers)->Make(id_).code(), absl::StatusCode::kAlreadyExists);
    ASSERT_TRUE(sys::MakeDirs((*layers)->DirectoryOf(id_) + "/upper/a/b/c", 0755).ok());
    EXPECT_EQ(*(*layers)->List(), std::vector<std::string>{id_});
    EXPECT_TRUE((*layers)->Remove(id_).ok());
    EXPECT_TRUE((*layers)->List()->empty());
    EXPECT_TRUE((*layers)->Remove(id_).ok()) << "a missing layer is success";
  }
  EXPECT_TRUE(ListDirectory(root_ + "/trash")->empty());
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
