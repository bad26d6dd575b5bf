#include "images/store/catalog.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "images/testing/temp_dir.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images {
namespace {

using testing::TempDir;

ImageRecord SomeImage(const std::string& id, std::vector<std::string> names,
                      std::vector<int64_t> layers) {
  ImageRecord image;
  image.id = id;
  image.manifest_digest = "m" + id;
  image.size = 7;
  image.names = std::move(names);
  image.blobs = {{"m" + id, "type", 3, BlobKind::kManifest}};
  image.layers = std::move(layers);
  return image;
}

LayerRecord SomeLayer(int64_t id) {
  LayerRecord layer;
  layer.id = id;
  layer.key = "diff:" + std::to_string(id);
  layer.diff_id = std::to_string(id);
  layer.bytes = 10;
  layer.has_root_entry = true;
  layer.opaque_root = true;
  return layer;
}

class CatalogTest : public ::testing::Test {
 protected:
  CatalogTest() { Reopen(); }
  void Reopen() {
    catalog_.reset();
    catalog_ = *Catalog::Open(dir_.path("images.db"));
  }

  TempDir dir_;
  std::unique_ptr<Catalog> catalog_;
};

TEST_F(CatalogTest, KeepsImagesWithTheirLayersInOrder) {
  ASSERT_TRUE(
      catalog_->PutImage(SomeImage("a", {"n:1", "n@d"}, {2, 1, 2}), {SomeLayer(1), SomeLayer(2)})
          .ok());
  Reopen();
  const auto content = catalog_->Load();
  ASSERT_TRUE(content.ok()) << content.status();
  ASSERT_EQ(content->images.size(), 1u);
  EXPECT_EQ(content->images[0].layers, (std::vector<int64_t>{2, 1, 2}));
  EXPECT_EQ(content->images[0].names, (std::vector<std::string>{"n:1", "n@d"}));
  EXPECT_EQ(content->images[0].blobs[0].media_type, "type");
  ASSERT_EQ(content->layers.size(), 2u);
  EXPECT_TRUE(content->layers[0].has_root_entry);
  EXPECT_TRUE(content->layers[0].opaque_root);
  EXPECT_EQ(content->next_layer_id, 3);
}

TEST_F(CatalogTest, ANameBelongsToTheImageThatGotItLast) {
  ASSERT_TRUE(catalog_->PutImage(SomeImage("a", {"n:1"}, {}), {}).ok());
  ASSERT_TRUE(catalog_->PutImage(SomeImage("b", {"n:1"}, {}), {}).ok());
  const auto content = *catalog_->Load();
  EXPECT_TRUE(content.images[0].names.empty());
  EXPECT_EQ(content.images[1].names.size(), 1u);
}

TEST_F(CatalogTest, AnImageWhoseLayerIsMissingIsNotCommittedAtAll) {
  EXPECT_FALSE(catalog_->PutImage(SomeImage("a", {"n:1"}, {1, 9}), {SomeLayer(1)}).ok());
  const auto content = *catalog_->Load();
  EXPECT_TRUE(content.images.empty());
  EXPECT_TRUE(content.layers.empty());
}

TEST_F(CatalogTest, LayerIdsAreNeverUsedTwice) {
  ASSERT_TRUE(catalog_->PutImage(SomeImage("a", {}, {5}), {SomeLayer(5)}).ok());
  ASSERT_TRUE(catalog_->RemoveImages({"a"}).ok());
  ASSERT_TRUE(catalog_->DeleteLayers({5}).ok());
  Reopen();
  EXPECT_EQ(catalog_->Load()->next_layer_id, 6);
}

TEST_F(CatalogTest, RemovingAnImageTakesItsNamesAndKeepsItsLayers) {
  ASSERT_TRUE(catalog_->PutImage(SomeImage("a", {"n:1"}, {1}), {SomeLayer(1)}).ok());
  EXPECT_FALSE(catalog_->DeleteLayers({1}).ok());  // an image needs it
  ASSERT_TRUE(catalog_->RemoveImages({"a"}).ok());
  EXPECT_EQ(catalog_->Load()->layers.size(), 1u);
  ASSERT_TRUE(catalog_->PutImage(SomeImage("a", {"n:1"}, {1}), {}).ok());
}

TEST_F(CatalogTest, ADamagedFileIsReportedAndNotReplaced) {
  catalog_.reset();
  testing::WriteTestFile(dir_.path("bad.db"), std::string(8192, 'x'));
  const auto bad = Catalog::Open(dir_.path("bad.db"));
  EXPECT_TRUE(absl::IsDataLoss(bad.status())) << bad.status();
  EXPECT_TRUE(absl::StrContains(bad.status().message(), "bad.db")) << bad.status();

  catalog_ = *Catalog::Open(dir_.path("half.db"));
  for (int i = 1; i < 200; ++i) {
    ASSERT_TRUE(
        catalog_
            ->PutImage(SomeImage(std::to_string(i), {std::string(200, 'n')}, {i}), {SomeLayer(i)})
            .ok());
  }
  catalog_.reset();
  std::string bytes = testing::ReadTestFile(dir_.path("half.db"));
  std::fill(bytes.begin() + 8192, bytes.begin() + 24576, '\x5a');
  testing::WriteTestFile(dir_.path("half.db"), bytes);
  const auto half = Catalog::Open(dir_.path("half.db"));
  EXPECT_TRUE(absl::IsDataLoss(half.status())) << half.status();
}

TEST_F(CatalogTest, SomebodyElsesFileIsKeptThoughALogOfOursStandsBesideIt) {
  ASSERT_TRUE(catalog_->PutImage(SomeImage("1", {"n"}, {1}), {SomeLayer(1)}).ok());
  // As a killed daemon leaves it: closing would take the log into the database.
  const std::string log = testing::ReadTestFile(dir_.path("images.db-wal"));
  ASSERT_FALSE(log.empty());
  catalog_.reset();
  testing::WriteTestFile(dir_.path("images.db"), "somebody else's");
  testing::WriteTestFile(dir_.path("images.db-wal"), log);
  EXPECT_TRUE(absl::IsDataLoss(Catalog::Open(dir_.path("images.db")).status()));
  EXPECT_EQ(testing::ReadTestFile(dir_.path("images.db")), "somebody else's");
}

TEST_F(CatalogTest, ADatabaseOfVersionOneIsTakenOver) {
  ASSERT_TRUE(catalog_->PutImage(SomeImage("a", {"n:1"}, {1}), {SomeLayer(1)}).ok());
  catalog_.reset();
  {
    const auto db = *Sqlite::Open(dir_.path("images.db"));
    ASSERT_TRUE(
        db->Execute("ALTER TABLE layers DROP COLUMN opaque_root; PRAGMA user_version = 1").ok());
  }
  Reopen();
  const auto content = *catalog_->Load();
  ASSERT_EQ(content.layers.size(), 1u);
  EXPECT_TRUE(content.layers[0].has_root_entry);
  EXPECT_FALSE(content.layers[0].opaque_root);
}

// testdata/version_<n>.sql makes a database as that version did; the files are never changed. A new
// version gets one of its own.
TEST_F(CatalogTest, DatabasesOfEveryVersionAreRead) {
  catalog_.reset();
  for (const int version : {1, 2}) {
    const std::string path = dir_.path("v" + std::to_string(version));
    {
      std::ifstream file("images/store/testdata/version_" + std::to_string(version) + ".sql");
      std::stringstream sql;
      sql << file.rdbuf();
      const auto db = *Sqlite::Open(path);
      const absl::Status made = db->Execute(sql.str().c_str());
      ASSERT_TRUE(made.ok()) << made;
    }
    auto catalog = Catalog::Open(path);
    ASSERT_TRUE(catalog.ok()) << catalog.status();
    const auto content = (*catalog)->Load();
    ASSERT_TRUE(content.ok()) << content.status();
    ASSERT_EQ(content->images.size(), 2u);
    const ImageRecord& image = content->images[0];
    EXPECT_EQ(image.id, "sha256:aaaa");
    EXPECT_EQ(image.manifest_digest, "sha256:bbbb");
    EXPECT_EQ(image.size, 4096u);
    EXPECT_FALSE(image.artifact);
    EXPECT_EQ(image.names.size(), 2u);
    EXPECT_EQ(image.layers, (std::vector<int64_t>{3, 4}));
    ASSERT_EQ(image.blobs.size(), 2u);
    EXPECT_TRUE(content->images[1].artifact);
    ASSERT_EQ(content->layers.size(), 2u);
    EXPECT_EQ(content->layers[0].key, "diff:sha256:1111");
    EXPECT_EQ(content->layers[0].bytes, 1048576u);
    EXPECT_EQ(content->layers[0].entries, 15u);
    EXPECT_TRUE(content->layers[0].has_root_entry);
    EXPECT_EQ(content->layers[0].opaque_root, version >= 2);
    EXPECT_EQ(content->next_layer_id, 5);
  }
}

TEST_F(CatalogTest, ANewerVersionIsRefused) {
  catalog_.reset();
  {
    const auto db = *Sqlite::Open(dir_.path("images.db"));
    ASSERT_TRUE(db->Execute("PRAGMA user_version = 3").ok());
  }
  EXPECT_TRUE(absl::IsFailedPrecondition(Catalog::Open(dir_.path("images.db")).status()));
}

// On a file system of its own, which is then full to the last byte.
TEST(CatalogOnAFullDiskTest, WhatIsThereCanBeRemovedAndReadAgain) {
  const TempDir dir;
  ASSERT_EQ(mount("tmpfs", dir.path().c_str(), "tmpfs", 0, "size=8m"), 0);
  const auto unmount = absl::MakeCleanup([&] { umount(dir.path().c_str()); });
  const std::string path = dir.path("images.db");
  auto catalog = *Catalog::Open(path);
  constexpr int kImages = 60;
  for (int i = 1; i <= kImages; ++i) {
    const std::string id = std::to_string(i);
    ASSERT_TRUE(catalog->PutImage(SomeImage(id, {id + ":1"}, {i}), {SomeLayer(i)}).ok());
  }
  catalog.reset();
  catalog = *Catalog::Open(path);
  const sys::UniqueFd filler(
      open(dir.path("filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const std::string block(4096, 'x');
  while (write(filler.get(), block.data(), block.size()) > 0) continue;
  ASSERT_EQ(errno, ENOSPC);
  for (int i = 1; i <= kImages / 2; ++i) {
    const absl::Status removed = catalog->RemoveImages({std::to_string(i)});
    ASSERT_TRUE(removed.ok()) << i << ": " << removed;
    ASSERT_TRUE(catalog->DeleteLayers({i}).ok());
  }
  catalog.reset();  // as a restart does
  auto again = Catalog::Open(path);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->Load()->images.size(), size_t{kImages / 2});
  const absl::Status removed = (*again)->RemoveImages({std::to_string(kImages)});
  EXPECT_TRUE(removed.ok()) << removed;
}

}  // namespace
}  // namespace davit::images
