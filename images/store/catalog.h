#ifndef DAVIT_IMAGES_STORE_CATALOG_H_
#define DAVIT_IMAGES_STORE_CATALOG_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "images/store/sqlite.h"

namespace davit::images {

// One unpacked layer. Its tree is <root>/layers/<id>.
struct LayerRecord {
  int64_t id = 0;   // never used twice, not even after the layer has gone
  std::string key;  // "diff:<diff id>", or "chain:<chain id>" if it depends on what is below
  std::string diff_id;
  uint64_t bytes = 0;  // on disk
  uint64_t inodes = 0;
  uint64_t entries = 0;         // of the tar
  bool has_root_entry = false;  // it describes its top directory
  bool opaque_root = false;     // it hides all layers below it
};

enum class BlobKind { kIndex = 0, kManifest = 1, kConfig = 2, kLayer = 3 };

// A file of the OCI layout that an image needs.
struct BlobRecord {
  std::string digest;
  std::string media_type;
  uint64_t size = 0;
  BlobKind kind = BlobKind::kManifest;
};

struct ImageRecord {
  std::string id;
  std::string manifest_digest;
  bool artifact = false;  // its manifest's config is not an image's
  uint64_t size = 0;
  std::vector<std::string> names;  // tags and digests, each "<repository>:<tag>" or "...@<digest>"
  std::vector<BlobRecord> blobs;
  std::vector<int64_t> layers;  // bottom first
};

// What the store knows, in <root>/images.db. A row means that the data it speaks of is on disk:
// rows are written after the data has been synced, and deleted before it goes. Not thread-safe:
// ImageStore serialises.
//
// Format (PRAGMA user_version 2; version 1 had no opaque_root):
//   images(id, manifest_digest, artifact, size)          one row an image; id is the config digest
//   names(name, image_id)                                a name belongs to one image
//   manifests(image_id, digest, media_type, size, kind)  the files in <root>/oci that it needs
//   layers(id, key, diff_id, bytes, inodes, entries, has_root_entry, opaque_root)
//   image_layers(image_id, position, layer_id)           position 0 is the bottom
class Catalog {
 public:
  // FailedPrecondition for a database of a newer version; DataLoss for a damaged one.
  static absl::StatusOr<std::unique_ptr<Catalog>> Open(const std::string& path);

  struct Content {
    std::vector<LayerRecord> layers;
    std::vector<ImageRecord> images;
    int64_t next_layer_id = 1;
  };
  absl::StatusOr<Content> Load();

  // Each is one transaction.
  // Adds the image, or to an image that is there already the names and blobs; names move here from
  // other images. `new_layers` that are there already are left as they are.
  absl::Status PutImage(const ImageRecord& image, const std::vector<LayerRecord>& new_layers);
  absl::Status RemoveImages(const std::vector<std::string>& ids);
  absl::Status DeleteLayers(const std::vector<int64_t>& ids);

 private:
  explicit Catalog(std::unique_ptr<Sqlite> db) : db_(std::move(db)) {}
  absl::Status Migrate(const std::string& path);
  absl::Status InsertImage(const ImageRecord& image);
  absl::StatusOr<std::vector<LayerRecord>> LoadLayers();
  absl::StatusOr<std::vector<ImageRecord>> LoadImages();

  const std::unique_ptr<Sqlite> db_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_CATALOG_H_
