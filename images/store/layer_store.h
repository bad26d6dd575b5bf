#ifndef DAVIT_IMAGES_STORE_LAYER_STORE_H_
#define DAVIT_IMAGES_STORE_LAYER_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/store/catalog.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images {

// The life of one layer in the store. kAbsent is no object at all.
//   absent -> unpacking   Begin: a staging directory exists
//   unpacking -> staged   Publish: renamed into layers/, whole, but perhaps not yet on the disk
//   unpacking -> absent   Abandon
//   staged -> ready       MarkReady: synced, and a row in the database says so
//   staged -> deleting    nobody wants it any more
//   ready -> deleting     no image and no pin
//   deleting -> absent    moved to trash/
//   deleting -> ready     its row could not be deleted
enum class LayerState { kAbsent, kUnpacking, kStaged, kReady, kDeleting };
bool MayMove(LayerState from, LayerState to);

// The unpacked layers: <root>/layers/<id> with the tree itself, <root>/layer-index/<id> with its
// index (layer_index.h), <root>/staging/<id> while one is unpacked, <root>/trash/. Names are short
// because overlayfs on older kernels takes all layers' names in one page. Layer 0 is always there
// and empty: the lower directory of an image without layers.
//
// A layer stays while images refer to it or somebody pins it. Knows nothing of the database.
// Thread-safe. The lock is never held across work on a tree; only across a rename.
class LayerStore {
 public:
  // Makes the directories. Call Adopt for each layer of the database, then
  // RemoveStaged, and RemoveUnknown once every container has pinned what it uses.
  static absl::StatusOr<std::unique_ptr<LayerStore>> Open(const std::string& root);

  // A layer of the database. NotFound if its tree is missing: the caller drops it.
  absl::Status Adopt(const LayerRecord& record);
  // The same for a layer that a container uses and that has no record. NotFound.
  absl::Status AdoptOrphan(int64_t id);
  void SetNextId(int64_t next_id);
  // Moves to the trash what the database does not know, of what this store names by numbers: the
  // rest is somebody else's.
  absl::Status RemoveUnknown();
  // The same for what was being unpacked or downloaded when the daemon before was killed.
  absl::Status RemoveStaged();

  // Pins and returns the layer for `diff_id` in a chain that ends at `chain_id`, if there is one.
  std::optional<LayerRecord> Acquire(absl::string_view diff_id, absl::string_view chain_id);
  // Pins by id. False if it is unknown or going.
  bool Pin(int64_t id);
  void Unpin(int64_t id);

  // A new staging directory, 0755.
  struct Staging {
    int64_t id = 0;
    sys::UniqueFd dir;  // readable
  };
  absl::StatusOr<Staging> Begin();
  // Removes the staging directory and all in it.
  void Abandon(int64_t id);
  // Makes the staged tree a layer, pinned once, with `record.id` naming the staging. If one with
  // the same key has been published meanwhile, that one is pinned and returned instead.
  absl::StatusOr<LayerRecord> Publish(LayerRecord record, const std::string& index);

  bool IsReady(int64_t id) const;
  void MarkReady(const std::vector<int64_t>& ids);
  void AddImage(const std::vector<int64_t>& ids);
  void DropImage(const std::vector<int64_t>& ids);

  // Layers that nobody wants: they are kDeleting from now on. Ready ones only if `with_ready`.
  struct Garbage {
    std::vector<int64_t> without_row;  // were staged
    std::vector<int64_t> with_row;     // were ready
  };
  Garbage TakeGarbage(bool with_ready);
  // After their rows have gone.
  void MoveToTrash(const std::vector<int64_t>& ids);
  // Their rows could not be deleted: they are ready again.
  void PutBack(const std::vector<int64_t>& ids);
  // Unlinks what is in the trash. Slow. False if something is still there.
  bool EmptyTrash();

  std::string Path(int64_t id) const;
  // The id that `path` names, or nothing.
  std::optional<int64_t> IdOfPath(const std::string& path) const;
  std::optional<LayerRecord> Find(int64_t id) const;
  int root_fd() const { return root_.get(); }
  absl::StatusOr<sys::UniqueFd> OpenLayer(int64_t id) const;

  struct Totals {
    uint64_t bytes = 0;
    uint64_t inodes = 0;
  };
  Totals totals() const;  // what is not in the trash yet

 private:
  struct Layer {
    LayerRecord record;
    LayerState state = LayerState::kUnpacking;
    int pins = 0;
    int images = 0;
  };

  LayerStore(std::string root, sys::UniqueFd fd, sys::UniqueFd indexes)
      : path_(std::move(root)), root_(std::move(fd)), indexes_(std::move(indexes)) {}
  static void Move(Layer* layer, LayerState to);
  Layer* ByKey(const std::string& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Discard(const std::string& path);

  const std::string path_;
  const sys::UniqueFd root_;
  const sys::UniqueFd indexes_;  // layer-index/
  mutable sys::Mutex mutex_;
  std::map<int64_t, Layer> layers_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int64_t> by_key_ ABSL_GUARDED_BY(mutex_);
  int64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t trash_sequence_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_LAYER_STORE_H_
