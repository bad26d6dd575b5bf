#ifndef DAVIT_IMAGES_STORE_IMAGE_STORE_H_
#define DAVIT_IMAGES_STORE_IMAGE_STORE_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/image.h"
#include "images/image_service.h"
#include "images/store/catalog.h"
#include "images/store/image_index.h"
#include "images/store/layer_store.h"
#include "images/store/oci_layout.h"
#include "runtime/sys/mutex.h"

namespace davit::images {

// The images of a node on disk, below one root:
//   images.db      what there is (catalog.h)
//   oci/           manifests and configs as an OCI layout (oci_layout.h)
//   layers/ ...    unpacked layers (layer_store.h)
// Order of a commit: trees and files in place, Sync(), then Commit(). Whatever has no row is
// deleted at Open. Reads are served from memory and wait for nothing. Thread-safe.
class ImageStore {
 public:
  // `pinned`: references that garbage collection of the kubelet should keep. A database that is
  // damaged is set aside with all that it describes, and the store starts empty.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Open(const std::string& root,
                                                          const std::vector<std::string>& pinned);
  ~ImageStore();

  std::shared_ptr<const Image> Find(absl::string_view reference) const;
  std::vector<std::shared_ptr<const Image>> List() const;

  // For a pull: staged layers and blobs go in here, pinned and held by the pull.
  LayerStore& layers() { return *layers_; }
  OciLayout& blobs() { return *blobs_; }

  // Puts everything written so far on the disk. ResourceExhausted, Internal.
  absl::Status Sync();

  // Makes the image visible, in one transaction. Its layers and blobs have been synced, and the
  // caller holds them. An image that is there already gets the names and blobs added. The image's
  // config and manifest are read from the blobs.
  absl::Status Commit(ImageRecord record);
  // The same for an image that must be there already: false if it is not (any more).
  absl::StatusOr<bool> AddNames(const std::string& id, const std::vector<std::string>& names,
                                const std::vector<BlobRecord>& blobs);

  // The image is there and was pulled by this manifest or index before.
  bool HasManifest(const std::string& id, const std::string& digest) const;

  // As ImageService says.
  absl::Status Remove(absl::string_view reference);
  absl::StatusOr<std::unique_ptr<LayerPin>> PinLayers(absl::string_view image_id);
  absl::StatusOr<std::unique_ptr<LayerPin>> RepinLayers(const std::vector<std::string>& lower_dirs);
  void StartGarbageCollection();
  FsUsage Usage() const;

  // Something may have become garbage: look in the background.
  void WakeJanitor();
  // Waits until the janitor has done all that is due. For tests and shutdown.
  void WaitForJanitor();

  const std::string& root() const { return root_; }

 private:
  ImageStore(std::string root, std::unique_ptr<Catalog> catalog, std::unique_ptr<LayerStore> layers,
             std::unique_ptr<OciLayout> blobs, const std::vector<std::string>& pinned);

  absl::Status Recover(const Catalog::Content& content);
  absl::StatusOr<Image> BuildImage(const ImageRecord& record) const;
  absl::Status Put(const ImageRecord& record, const std::vector<LayerRecord>& new_layers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  void Show(const ImageRecord& record, Image image) ABSL_EXCLUSIVE_LOCKS_REQUIRED(write_mutex_);
  std::vector<OciLayout::Entry> LayoutEntries() const;
  void Janitor();
  void CollectGarbage(bool with_ready);

  const std::string root_;
  const std::unique_ptr<LayerStore> layers_;
  const std::unique_ptr<OciLayout> blobs_;
  std::set<std::string> pinned_;

  // Serialises changes: held across the database's transactions, never taken by a reader.
  mutable sys::Mutex write_mutex_;
  const std::unique_ptr<Catalog> catalog_ ABSL_GUARDED_BY(write_mutex_);
  std::map<std::string, ImageRecord> records_ ABSL_GUARDED_BY(write_mutex_);

  // What starting a container needs of a record, so that it never waits for a transaction.
  struct Tree {
    bool artifact = false;
    std::vector<int64_t> layers;  // bottom first
  };

  // Held for the copy of a pointer or of one Tree only.
  mutable sys::Mutex index_mutex_;
  std::shared_ptr<const ImageIndex> index_ ABSL_GUARDED_BY(index_mutex_);
  std::map<std::string, Tree> trees_ ABSL_GUARDED_BY(index_mutex_);  // by image id

  sys::Mutex janitor_mutex_;
  sys::CondVar janitor_wake_;
  sys::CondVar janitor_idle_;
  bool janitor_due_ ABSL_GUARDED_BY(janitor_mutex_) = true;
  bool janitor_busy_ ABSL_GUARDED_BY(janitor_mutex_) = false;
  bool collect_ready_ ABSL_GUARDED_BY(janitor_mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(janitor_mutex_) = false;
  bool trash_left_ = false;  // the janitor's own
  std::thread janitor_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_IMAGE_STORE_H_
