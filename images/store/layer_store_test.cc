#include "images/store/layer_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "images/testing/temp_dir.h"

namespace davit::images {
namespace {

using testing::Exists;
using testing::Names;
using testing::TempDir;
using testing::WriteTestFile;

class LayerStoreTest : public ::testing::Test {
 protected:
  LayerStoreTest() { Reopen(); }
  void Reopen() {
    layers_.reset();
    layers_ = *LayerStore::Open(dir_.path("s"));
  }

  LayerRecord Record(int64_t id, const std::string& key) {
    LayerRecord record;
    record.id = id;
    record.key = key;
    record.diff_id = key;
    record.bytes = 100;
    record.inodes = 1;
    return record;
  }
  // A layer that nobody pins any more.
  int64_t MakeLayer(const std::string& key) {
    const auto staging = layers_->Begin();
    WriteTestFile(dir_.path(absl::StrCat("s/staging/", staging->id, "/file")), key);
    const int64_t id = layers_->Publish(Record(staging->id, key), "index")->id;
    layers_->Unpin(id);
    return id;
  }

  TempDir dir_;
  std::unique_ptr<LayerStore> layers_;
};

TEST_F(LayerStoreTest, EveryMoveThatIsNotInTheTableIsIllegal) {
  using S = LayerState;
  const std::vector<std::pair<S, S>> legal = {
      {S::kAbsent, S::kUnpacking}, {S::kUnpacking, S::kStaged}, {S::kUnpacking, S::kAbsent},
      {S::kStaged, S::kReady},     {S::kStaged, S::kDeleting},  {S::kReady, S::kDeleting},
      {S::kDeleting, S::kAbsent},  {S::kDeleting, S::kReady}};
  for (const S from : {S::kAbsent, S::kUnpacking, S::kStaged, S::kReady, S::kDeleting}) {
    for (const S to : {S::kAbsent, S::kUnpacking, S::kStaged, S::kReady, S::kDeleting}) {
      const bool listed = std::find(legal.begin(), legal.end(), std::pair(from, to)) != legal.end();
      EXPECT_EQ(MayMove(from, to), listed)
          << static_cast<int>(from) << " -> " << static_cast<int>(to);
    }
  }
}

TEST_F(LayerStoreTest, ALayerIsFoundByItsDiffIdOrByItsChain) {
  const int64_t by_diff = MakeLayer("diff:d1");
  const int64_t by_chain = MakeLayer("chain:c2");
  EXPECT_EQ(layers_->Acquire("d1", "other")->id, by_diff);
  EXPECT_EQ(layers_->Acquire("d2", "c2")->id, by_chain);
  EXPECT_FALSE(layers_->Acquire("d2", "c3").has_value());
}

TEST_F(LayerStoreTest, TheSecondOfTwoEqualLayersGivesWayToTheFirst) {
  const auto one = layers_->Begin();
  const auto two = layers_->Begin();
  EXPECT_EQ(layers_->Publish(Record(one->id, "diff:d"), "")->id, one->id);
  EXPECT_EQ(layers_->Publish(Record(two->id, "diff:d"), "")->id, one->id);
  EXPECT_EQ(Names(dir_.path("s/staging")), "");
  EXPECT_EQ(Names(dir_.path("s/layers")), absl::StrCat("0 ", one->id));
  EXPECT_EQ(Names(dir_.path("s/layer-index")), absl::StrCat(one->id));
}

TEST_F(LayerStoreTest, GarbageIsWhatNobodyPinsAndNoImageNeeds) {
  const int64_t staged = MakeLayer("diff:staged");
  const int64_t pinned = MakeLayer("diff:pinned");
  const int64_t used = MakeLayer("diff:used");
  const int64_t ready = MakeLayer("diff:ready");
  ASSERT_TRUE(layers_->Pin(pinned));
  layers_->AddImage({used});
  layers_->MarkReady({pinned, used, ready});
  EXPECT_EQ(layers_->TakeGarbage(false).without_row, std::vector<int64_t>{staged});
  const auto garbage = layers_->TakeGarbage(true);
  EXPECT_TRUE(garbage.without_row.empty());
  EXPECT_EQ(garbage.with_row, std::vector<int64_t>{ready});
  EXPECT_FALSE(layers_->Pin(ready));
  EXPECT_FALSE(layers_->Acquire("ready", "").has_value());
  layers_->PutBack({ready});
  EXPECT_TRUE(layers_->Acquire("ready", "").has_value());
  layers_->MoveToTrash({staged});
  EXPECT_FALSE(Exists(layers_->Path(staged)));
  EXPECT_NE(Names(dir_.path("s/trash")), "");
  layers_->EmptyTrash();
  EXPECT_EQ(Names(dir_.path("s/trash")), "");
}

TEST_F(LayerStoreTest, WhatTheDatabaseDoesNotKnowGoesAtTheStart) {
  const int64_t known = MakeLayer("diff:known");
  MakeLayer("diff:unknown");
  ASSERT_TRUE(layers_->Begin().ok());
  WriteTestFile(dir_.path("s/staging/blob-x"), "half");
  Reopen();
  ASSERT_TRUE(layers_->Adopt(Record(known, "diff:known")).ok());
  EXPECT_TRUE(absl::IsNotFound(layers_->Adopt(Record(77, "diff:lost"))));
  ASSERT_TRUE(layers_->RemoveStaged().ok());
  ASSERT_TRUE(layers_->RemoveUnknown().ok());
  EXPECT_TRUE(layers_->EmptyTrash());
  EXPECT_EQ(Names(dir_.path("s/staging")), "");
  EXPECT_EQ(Names(dir_.path("s/layers")), absl::StrCat("0 ", known));
  EXPECT_EQ(Names(dir_.path("s/layer-index")), absl::StrCat(known));
  EXPECT_EQ(Names(dir_.path("s/trash")), "");
}

TEST_F(LayerStoreTest, OnlyThePathsOfLayersAreTakenForLayers) {
  EXPECT_EQ(layers_->IdOfPath(layers_->Path(12)), 12);
  for (const char* path : {"/etc", "layers/1", "", "/"}) {
    EXPECT_EQ(layers_->IdOfPath(path), std::nullopt) << path;
  }
  EXPECT_EQ(layers_->IdOfPath(dir_.path("s/layers/1/../../x")), std::nullopt);
  EXPECT_EQ(layers_->IdOfPath(dir_.path("s/layers/01")), std::nullopt);
  EXPECT_EQ(layers_->IdOfPath(dir_.path("s/layers/-1")), std::nullopt);
}

TEST_F(LayerStoreTest, APathThatWasWrittenUnderAnotherNameOfTheRootIsStillThatLayer) {
  const int64_t id = MakeLayer("diff:d");
  ASSERT_EQ(symlink(dir_.path("s").c_str(), dir_.path("link").c_str()), 0);
  for (const char* root : {"link", "s/", "s/../s"}) {
    EXPECT_EQ(layers_->IdOfPath(dir_.path(absl::StrCat(root, "/layers/", id))), id) << root;
  }
  EXPECT_EQ(layers_->IdOfPath(dir_.path(absl::StrCat("link/trash/", id))), std::nullopt);
}

TEST_F(LayerStoreTest, OtherUsersOfTheNodeCannotEnter) {
  struct stat st;
  for (const char* name : {"s", "s/layers", "s/staging", "s/trash"}) {
    ASSERT_EQ(stat(dir_.path(name).c_str(), &st), 0);
    EXPECT_EQ(st.st_mode & 0777, 0700u) << name;
  }
}

}  // namespace
}  // namespace davit::images
