#include "images/store/image_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "images/digest.h"
#include "images/document/media_type.h"
#include "images/testing/temp_dir.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

using testing::Exists;
using testing::Names;
using testing::ReadTestFile;
using testing::TempDir;
using testing::WriteTestFile;

Digest Sha(absl::string_view bytes) { return Hasher::Hash(Digest::Algorithm::kSha256, bytes); }

class ImageStoreTest : public ::testing::Test {
 protected:
  ImageStoreTest() { Reopen(); }

  void Reopen() {
    store_.reset();
    store_ = *ImageStore::Open(root(), {"x.io/pinned:1"});
    store_->WaitForJanitor();
  }
  std::string root() const { return dir_.path("images"); }

  // Commits an image of one layer that holds one file, as a pull does.
  ImageRecord PutImage(const std::string& name, const std::string& content) {
    const std::string diff_id = Sha(content).ToString();
    const std::string config =
        absl::StrCat(R"({"rootfs":{"type":"layers","diff_ids":[")", diff_id, R"("]}})");
    const std::string manifest = absl::StrCat(
        R"({"schemaVersion":2,"mediaType":")", kOciManifestType, R"(","config":{"mediaType":")",
        kOciConfigType, R"(","size":)", config.size(), R"(,"digest":")", Sha(config).ToString(),
        R"("},"layers":[],"annotations":{"k":"v"}})");
    ImageRecord record;
    record.id = Sha(config).ToString();
    record.manifest_digest = Sha(manifest).ToString();
    record.size = 1;
    record.names = {name, absl::StrCat("x.io/n@", record.manifest_digest)};
    record.blobs = {
        {record.id, kOciConfigType, config.size(), BlobKind::kConfig},
        {record.manifest_digest, kOciManifestType, manifest.size(), BlobKind::kManifest}};
    const auto hold1 = *store_->blobs().Put(Sha(config), config);
    const auto hold2 = *store_->blobs().Put(Sha(manifest), manifest);
    auto layer = store_->layers().Acquire(diff_id, diff_id);
    if (!layer.has_value()) {
      const auto staging = *store_->layers().Begin();
      WriteTestFile(absl::StrCat(root(), "/staging/", staging.id, "/file"), content);
      LayerRecord fresh;
      fresh.id = staging.id;
      fresh.key = absl::StrCat("diff:", diff_id);
      fresh.diff_id = diff_id;
      fresh.bytes = 4096;
      fresh.inodes = 2;
      layer = *store_->layers().Publish(fresh, "index");
    }
    record.layers = {layer->id};
    EXPECT_TRUE(store_->Sync().ok());
    EXPECT_TRUE(store_->Commit(record).ok());
    store_->layers().Unpin(layer->id);
    store_->WaitForJanitor();
    return record;
  }

  TempDir dir_;
  std::unique_ptr<ImageStore> store_;
};

TEST_F(ImageStoreTest, AnImageSurvivesARestart) {
  const ImageRecord record = PutImage("x.io/n:1", "content");
  Reopen();
  const auto image = store_->Find("x.io/n:1");
  ASSERT_NE(image, nullptr);
  EXPECT_EQ(image->id, record.id);
  EXPECT_EQ(image->manifest_digest, record.manifest_digest);
  EXPECT_EQ(image->annotations.at("k"), "v");
  EXPECT_EQ(image->diff_ids.size(), 1u);
  EXPECT_EQ(image->chain_id, image->diff_ids[0]);
  EXPECT_FALSE(image->pinned);
  const auto pin = store_->PinLayers(record.id);
  ASSERT_TRUE(pin.ok()) << pin.status();
  EXPECT_EQ(ReadTestFile((*pin)->lower_dirs()[0] + "/file"), "content");
  EXPECT_EQ((*pin)->root_dir(), (*pin)->lower_dirs()[0]);
}

TEST_F(ImageStoreTest, WhatWasHalfDoneIsGoneAfterARestart) {
  PutImage("x.io/n:1", "content");
  const auto staging = *store_->layers().Begin();
  const auto published = *store_->layers().Begin();
  LayerRecord layer;
  layer.id = published.id;
  layer.key = "diff:never-committed";
  ASSERT_TRUE(store_->layers().Publish(layer, "").ok());
  auto hold = *store_->blobs().Put(Sha("orphan"), "orphan");
  const std::string blob = absl::StrCat(root(), "/oci/blobs/sha256/", Sha("orphan").hex());
  // The files of a daemon that died here, without its destructors.
  const std::string copy = dir_.path("copy");
  ASSERT_EQ(system(absl::StrCat("cp -a ", root(), " ", copy).c_str()), 0);
  EXPECT_TRUE(Exists(absl::StrCat(copy, "/staging/", staging.id)));
  EXPECT_TRUE(Exists(absl::StrCat(copy, "/layers/", published.id)));

  const auto reopened = *ImageStore::Open(copy, {});
  reopened->StartGarbageCollection();
  reopened->WaitForJanitor();
  EXPECT_NE(reopened->Find("x.io/n:1"), nullptr);
  EXPECT_EQ(Names(copy + "/staging"), "");
  EXPECT_EQ(Names(copy + "/trash"), "");
  EXPECT_EQ(Names(copy + "/layers"), "0 1");
  EXPECT_FALSE(Exists(absl::StrCat(copy, "/oci/blobs/sha256/", Sha("orphan").hex())));
  EXPECT_TRUE(Exists(blob));
}

TEST_F(ImageStoreTest, RemovalTakesAllNamesAtOnceAndTheFilesInTheBackground) {
  const ImageRecord record = PutImage("x.io/n:1", "content");
  PutImage("y.io/other:2", "content");
  EXPECT_EQ(store_->List().size(), 1u);
  store_->StartGarbageCollection();
  ASSERT_TRUE(store_->Remove("y.io/other:2").ok());
  EXPECT_EQ(store_->Find("x.io/n:1"), nullptr);
  EXPECT_TRUE(store_->List().empty());
  EXPECT_TRUE(store_->Remove("y.io/other:2").ok());
  store_->WaitForJanitor();
  EXPECT_EQ(Names(root() + "/layers"), "0");
  EXPECT_EQ(Names(root() + "/oci/blobs/sha256"), "");
  EXPECT_EQ(Names(root() + "/trash"), "");
  EXPECT_EQ(store_->Usage().used_bytes, 0u);
  EXPECT_TRUE(absl::IsNotFound(store_->PinLayers(record.id).status()));
}

TEST_F(ImageStoreTest, NothingIsCollectedBeforeRecoveryHasPinnedWhatItNeeds) {
  PutImage("x.io/n:1", "content");
  ASSERT_TRUE(store_->Remove("x.io/n:1").ok());
  store_->WaitForJanitor();
  EXPECT_EQ(Names(root() + "/layers"), "0 1");
  Reopen();
  EXPECT_EQ(Names(root() + "/layers"), "0 1");
  store_->StartGarbageCollection();
  store_->WaitForJanitor();
  EXPECT_EQ(Names(root() + "/layers"), "0");
}

TEST_F(ImageStoreTest, ALayerIsSharedUntilTheLastImageGoes) {
  PutImage("x.io/n:1", "content");
  const auto first = store_->Find("x.io/n:1");
  store_->StartGarbageCollection();
  const auto usage = store_->Usage();
  EXPECT_GE(usage.used_bytes, 4096u);
  EXPECT_EQ(usage.mountpoint, root());
  // Acquired by a pull that is under way while the image goes.
  const auto layer = store_->layers().Acquire(first->diff_ids[0], first->chain_id);
  ASSERT_TRUE(layer.has_value());
  ASSERT_TRUE(store_->Remove(first->id).ok());
  store_->WaitForJanitor();
  EXPECT_TRUE(Exists(store_->layers().Path(layer->id)));
  store_->layers().Unpin(layer->id);
  PutImage("x.io/n:1", "content");
  EXPECT_NE(store_->Find("x.io/n:1"), nullptr);
}

TEST_F(ImageStoreTest, AnImageOfWhichSomethingIsMissingVanishesSoThatItIsPulledAgain) {
  PutImage("x.io/layer:1", "one");
  PutImage("x.io/blob:1", "two");
  PutImage("x.io/good:1", "three");
  const auto image = store_->Find("x.io/blob:1");
  const std::string layer =
      store_->PinLayers(store_->Find("x.io/layer:1")->id).value()->lower_dirs()[0];
  store_.reset();
  ASSERT_TRUE(sys::RemoveTreeAt(AT_FDCWD, layer).ok());
  WriteTestFile(absl::StrCat(root(), "/oci/blobs/sha256/", image->id.substr(7)), "");
  Reopen();
  EXPECT_EQ(store_->Find("x.io/layer:1"), nullptr);
  EXPECT_EQ(store_->Find("x.io/blob:1"), nullptr);
  EXPECT_NE(store_->Find("x.io/good:1"), nullptr);
  PutImage("x.io/layer:1", "one");
  PutImage("x.io/blob:1", "two");
  Reopen();
  EXPECT_EQ(store_->List().size(), 3u);
}

TEST_F(ImageStoreTest, PinnedReferencesMakeTheirImagePinned) {
  PutImage("x.io/pinned:1", "content");
  EXPECT_TRUE(store_->Find("x.io/pinned:1")->pinned);
  Reopen();
  EXPECT_TRUE(store_->Find("x.io/pinned:1")->pinned);
}

TEST_F(ImageStoreTest, TheLayoutNamesEachImageForOtherTools) {
  const ImageRecord record = PutImage("x.io/n:1", "content");
  const auto index = nlohmann::json::parse(ReadTestFile(root() + "/oci/index.json"));
  ASSERT_EQ(index["manifests"].size(), 1u);
  EXPECT_EQ(index["manifests"][0]["digest"], record.manifest_digest);
  EXPECT_EQ(index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"], "x.io/n:1");
  EXPECT_EQ(ReadTestFile(root() + "/oci/oci-layout"), R"({"imageLayoutVersion":"1.0.0"})");
}

// Damages the closed store's database in a way of its own.
using Damage = void (*)(const std::string& database);

TEST_F(ImageStoreTest, ADamagedDatabaseIsSetAsideWithTheLayersAndTheStoreStartsEmpty) {
  const Damage damages[] = {
      [](const std::string& path) { WriteTestFile(path, std::string(4096, 'x')); },
      [](const std::string& path) {
        std::string text = ReadTestFile(path);
        WriteTestFile(path, text.substr(0, text.size() / 2));
      },
      [](const std::string& path) {
        (void)unlink(path.c_str());
        ASSERT_EQ(mkdir(path.c_str(), 0700), 0);
      },
      [](const std::string& path) {
        (void)unlink(path.c_str());
        ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
      },
      [](const std::string& path) {
        (void)unlink(path.c_str());
        ASSERT_EQ(system(absl::StrCat("sqlite3 ", path,
                                      " 'CREATE TABLE images(a); PRAGMA "
                                      "user_version = 2'")
                             .c_str()),
                  0);
      },
  };
  int n = 0;
  for (const Damage damage : damages) {
    PutImage("x.io/n:1", "content");
    const std::string used = store_->PinLayers(store_->Find("x.io/n:1")->id).value()->root_dir();
    const int64_t id = *store_->layers().IdOfPath(used);
    store_.reset();
    damage(root() + "/images.db");
    (void)unlink((root() + "/images.db-wal").c_str());
    Reopen();
    EXPECT_TRUE(store_->List().empty()) << n;
    store_->StartGarbageCollection();
    store_->WaitForJanitor();
    const std::string aside = absl::StrCat(root(), "/set-aside/", n);
    EXPECT_EQ(Names(aside + "/layers"), absl::StrCat("0 ", id));
    EXPECT_TRUE(Exists(aside + "/images.db"));
    // A number that a container's record names is not given to another layer.
    EXPECT_GT(store_->layers().Begin()->id, id);
    ++n;
  }
}

TEST_F(ImageStoreTest, ALayerThatAContainerUsesIsKeptWithoutItsRow) {
  const ImageRecord record = PutImage("x.io/n:1", "content");
  const std::vector<std::string> lower = store_->PinLayers(record.id).value()->lower_dirs();
  store_.reset();
  for (const char* suffix : {"", "-wal", "-shm"}) {
    (void)unlink((root() + "/images.db" + suffix).c_str());
  }
  Reopen();
  auto pin = store_->RepinLayers(lower);
  ASSERT_TRUE(pin.ok()) << pin.status();
  store_->StartGarbageCollection();
  store_->WaitForJanitor();
  EXPECT_TRUE(Exists(lower[0]));
  pin->reset();
  store_->WaitForJanitor();
  EXPECT_FALSE(Exists(lower[0]));
}

TEST_F(ImageStoreTest, WhatIsNotOfTheStoresMakingIsLeftAlone) {
  PutImage("x.io/n:1", "content");
  store_.reset();
  const std::vector<std::string> foreign = {
      root() + "/layers/lost+found",       root() + "/layers/7",
      root() + "/staging/notes",           root() + "/layer-index/README",
      root() + "/oci/blobs/sha256/README", root() + "/notes"};
  for (const std::string& path : foreign) WriteTestFile(path, "somebody's");
  Reopen();
  store_->StartGarbageCollection();
  store_->WaitForJanitor();
  for (const std::string& path : foreign) EXPECT_EQ(ReadTestFile(path), "somebody's") << path;
  EXPECT_NE(store_->Find("x.io/n:1"), nullptr);
}

TEST_F(ImageStoreTest, ATreeThatCannotBeRemovedIsTriedAgainUntilItCan) {
  const auto staging = *store_->layers().Begin();
  const std::string path = absl::StrCat(root(), "/staging/", staging.id);
  ASSERT_EQ(mkdir((path + "/busy").c_str(), 0700), 0);
  ASSERT_EQ(mount("davit-test", (path + "/busy").c_str(), "tmpfs", 0, "size=64k"), 0);
  store_->layers().Abandon(staging.id);
  EXPECT_FALSE(Exists(path));
  store_->WakeJanitor();
  store_->WaitForJanitor();
  const std::string left = Names(root() + "/trash");
  ASSERT_NE(left, "");
  ASSERT_EQ(umount((root() + "/trash/" + left + "/busy").c_str()), 0);
  for (int i = 0; i < 1000 && Names(root() + "/trash") != ""; ++i) usleep(10'000);
  EXPECT_EQ(Names(root() + "/trash"), "");
}

TEST_F(ImageStoreTest, ABlobThatAnImageReliesOnIsReplacedOnlyIfItIsDamaged) {
  const ImageRecord record = PutImage("x.io/n:1", "content");
  const std::string path = absl::StrCat(root(), "/oci/blobs/sha256/", record.id.substr(7));
  const std::string config = ReadTestFile(path);
  struct stat before;
  struct stat after;
  ASSERT_EQ(stat(path.c_str(), &before), 0);
  ASSERT_TRUE(store_->blobs().Put(Sha(config), config).ok());
  ASSERT_EQ(stat(path.c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  WriteTestFile(path, "damaged");
  ASSERT_TRUE(store_->blobs().Put(Sha(config), config).ok());
  EXPECT_EQ(ReadTestFile(path), config);
}

TEST_F(ImageStoreTest, AKnownImagePulledAgainLeavesNoRowForALayerThatItDoesNotUse) {
  const ImageRecord record = PutImage("x.io/n:1", "content");
  const auto staging = *store_->layers().Begin();
  LayerRecord layer;
  layer.id = staging.id;
  layer.key = "diff:made-anew";
  layer.diff_id = "made-anew";
  ASSERT_TRUE(store_->layers().Publish(layer, "").ok());
  ImageRecord again = record;
  again.layers = {layer.id};
  ASSERT_TRUE(store_->Commit(again).ok());
  store_->layers().Unpin(layer.id);
  store_->WakeJanitor();
  store_->WaitForJanitor();
  EXPECT_FALSE(Exists(store_->layers().Path(layer.id)));
  store_.reset();
  EXPECT_EQ(Catalog::Open(root() + "/images.db").value()->Load()->layers.size(), 1u);
}

TEST_F(ImageStoreTest, NamesOfAnImageThatIsNotThereAreNotAdded) {
  EXPECT_FALSE(store_->AddNames(Sha("none").ToString(), {"x.io/n:1"}, {}).value());
  const ImageRecord record = PutImage("x.io/n:1", "content");
  EXPECT_TRUE(store_->AddNames(record.id, {"x.io/n:2"}, {}).value());
  EXPECT_EQ(store_->Find("x.io/n:2")->id, record.id);
  Reopen();
  EXPECT_EQ(store_->Find("x.io/n:2")->repo_tags.size(), 2u);
}

}  // namespace
}  // namespace davit::images
