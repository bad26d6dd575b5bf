#include "images/store/image_store.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/digest.h"
#include "images/document/image_config.h"
#include "images/document/manifest.h"
#include "images/reference.h"
#include "images/store/damaged_store.h"
#include "images/store/layer_pins.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/thread.h"

namespace davit::images {
namespace {

// Unlinking large trees must not slow down what containers read and write.
void BeQuiet() {
  constexpr int kIoprioWhoProcess = 1;
  constexpr int kIoprioIdle = 3 << 13;
  setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), 19);
  syscall(SYS_ioprio_set, kIoprioWhoProcess, 0, kIoprioIdle);
}

// Of removals that failed: the disk or this process was short of something.
constexpr absl::Duration kFirstRetry = absl::Milliseconds(500);
constexpr absl::Duration kLongestRetry = absl::Minutes(5);

std::string ShownMessage(const absl::Status& status) { return std::string(status.message()); }

bool SameRecord(const ImageRecord& record, const ImageRecord& known) {
  return std::includes(known.names.begin(), known.names.end(), record.names.begin(),
                       record.names.end());
}

struct Contents {
  std::unique_ptr<Catalog> catalog;
  Catalog::Content content;
};

absl::StatusOr<Contents> OpenContents(const std::string& root) {
  Contents contents;
  DAVIT_ASSIGN_OR_RETURN(contents.catalog, Catalog::Open(absl::StrCat(root, "/images.db")));
  DAVIT_ASSIGN_OR_RETURN(contents.content, contents.catalog->Load());
  return contents;
}

// Internal: what the schema has is not there, or not what it should be.
bool IsDamage(const absl::Status& status) {
  return absl::IsDataLoss(status) || absl::IsInternal(status);
}

}  // namespace

ImageStore::ImageStore(std::string root, std::unique_ptr<Catalog> catalog,
                       std::unique_ptr<LayerStore> layers, std::unique_ptr<OciLayout> blobs,
                       const std::vector<std::string>& pinned)
    : root_(std::move(root)),
      layers_(std::move(layers)),
      blobs_(std::move(blobs)),
      catalog_(std::move(catalog)),
      index_(std::make_shared<const ImageIndex>()) {
  for (const std::string& text : pinned) {
    const auto reference = ParseReference(text);
    if (!reference.ok()) continue;
    pinned_.insert(reference->digest.empty() ? reference->Tagged()
                                             : reference->WithDigest(reference->digest));
  }
}

absl::StatusOr<std::unique_ptr<ImageStore>> ImageStore::Open(
    const std::string& root, const std::vector<std::string>& pinned) {
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(root, 0700));
  auto contents = OpenContents(root);
  if (IsDamage(contents.status())) {
    DAVIT_ASSIGN_OR_RETURN(const DamagedStore aside, SetStoreAside(root));
    spdlog::error(
        "image store: {}; the store starts empty and images are pulled again. What was there is "
        "now "
        "{}: running containers use its layers, so remove it when they are gone",
        ShownMessage(contents.status()), aside.path);
    contents = OpenContents(root);
    // Records of containers name layers by their numbers.
    if (contents.ok()) {
      contents->content.next_layer_id =
          std::max(contents->content.next_layer_id, aside.highest_layer + 1);
    }
  }
  if (!contents.ok()) return contents.status();
  DAVIT_ASSIGN_OR_RETURN(std::unique_ptr<LayerStore> layers, LayerStore::Open(root));
  DAVIT_ASSIGN_OR_RETURN(std::unique_ptr<OciLayout> blobs,
                         OciLayout::Open(absl::StrCat(root, "/oci")));
  auto store = std::unique_ptr<ImageStore>(new ImageStore(
      root, std::move(contents->catalog), std::move(layers), std::move(blobs), pinned));
  DAVIT_RETURN_IF_ERROR(store->Recover(contents->content));
  DAVIT_ASSIGN_OR_RETURN(store->janitor_,
                         sys::StartThread([raw = store.get()] { raw->Janitor(); }));
  return store;
}

ImageStore::~ImageStore() {
  {
    sys::MutexLock lock(&janitor_mutex_);
    stopping_ = true;
    janitor_wake_.SignalAll();
  }
  if (janitor_.joinable()) janitor_.join();
}

absl::Status ImageStore::Recover(const Catalog::Content& content) {
  sys::MutexLock lock(&write_mutex_);
  layers_->SetNextId(content.next_layer_id);
  std::vector<int64_t> lost_layers;
  for (const LayerRecord& layer : content.layers) {
    const absl::Status status = layers_->Adopt(layer);
    if (status.ok()) continue;
    spdlog::warn("image store: {}; images with it are dropped", ShownMessage(status));
    lost_layers.push_back(layer.id);
  }
  // An image of which something is missing vanishes, so that the kubelet pulls it again: that
  // repairs it, and listing it would not.
  std::vector<std::string> lost_images;
  for (const ImageRecord& record : content.images) {
    auto image = BuildImage(record);
    if (!image.ok()) {
      spdlog::warn("image store: image {} is dropped: {}", record.id, ShownMessage(image.status()));
      lost_images.push_back(record.id);
      continue;
    }
    layers_->AddImage(record.layers);
    for (const BlobRecord& blob : record.blobs) blobs_->AddReference(blob.digest, blob.size);
    Show(record, *std::move(image));
  }
  if (!lost_images.empty()) DAVIT_RETURN_IF_ERROR(catalog_->RemoveImages(lost_images));
  if (!lost_layers.empty()) DAVIT_RETURN_IF_ERROR(catalog_->DeleteLayers(lost_layers));
  blobs_->RemoveUnreferenced();
  return layers_->RemoveStaged();
}

absl::StatusOr<Image> ImageStore::BuildImage(const ImageRecord& record) const {
  Image image;
  image.id = record.id;
  image.manifest_digest = record.manifest_digest;
  image.size = record.size;
  for (const std::string& name : record.names) {
    (absl::StrContains(name, "@") ? image.repo_digests : image.repo_tags).push_back(name);
    image.pinned = image.pinned || pinned_.contains(name);
  }
  DAVIT_ASSIGN_OR_RETURN(const Digest manifest_digest, Digest::Parse(record.manifest_digest));
  DAVIT_ASSIGN_OR_RETURN(const std::string manifest_bytes,
                         blobs_->Read(manifest_digest, kMaxManifestBytes));
  DAVIT_ASSIGN_OR_RETURN(auto document, ParseManifestDocument(manifest_bytes, ""));
  const Manifest* manifest = std::get_if<Manifest>(&document);
  if (manifest == nullptr) return absl::DataLossError("the stored manifest is an index");
  image.annotations = manifest->annotations;
  if (record.artifact) return image;

  DAVIT_ASSIGN_OR_RETURN(const Digest config_digest, Digest::Parse(record.id));
  DAVIT_ASSIGN_OR_RETURN(image.config_json, blobs_->Read(config_digest, kMaxConfigBytes));
  DAVIT_ASSIGN_OR_RETURN(ParsedConfig config, ParseImageConfig(image.config_json));
  image.config = std::move(config.config);
  for (const Digest& diff_id : config.diff_ids) {
    image.diff_ids.push_back(diff_id.ToString());
    image.chain_id = NextChainId(image.chain_id, image.diff_ids.back());
  }
  if (record.layers.size() != image.diff_ids.size()) {
    return absl::DataLossError("the store has another number of layers than the image");
  }
  for (const int64_t id : record.layers) {
    if (!layers_->Find(id).has_value()) {
      return absl::DataLossError(absl::StrCat("layer ", id, " is missing"));
    }
  }
  return image;
}

void ImageStore::Show(const ImageRecord& record, Image image) {
  // The names that move here leave the records of the images that had them.
  for (auto& [id, other] : records_) {
    if (id == record.id) continue;
    std::erase_if(other.names, [&record](const std::string& name) {
      return std::find(record.names.begin(), record.names.end(), name) != record.names.end();
    });
  }
  records_[record.id] = record;
  auto next = std::make_shared<ImageIndex>();
  {
    sys::MutexLock lock(&index_mutex_);
    *next = *index_;
  }
  next->Put(std::move(image));
  sys::MutexLock lock(&index_mutex_);
  index_ = std::move(next);
  trees_[record.id] = {record.artifact, record.layers};
}

std::shared_ptr<const Image> ImageStore::Find(absl::string_view reference) const {
  std::shared_ptr<const ImageIndex> index;
  {
    sys::MutexLock lock(&index_mutex_);
    index = index_;
  }
  return index->Find(reference);
}

std::vector<std::shared_ptr<const Image>> ImageStore::List() const {
  std::shared_ptr<const ImageIndex> index;
  {
    sys::MutexLock lock(&index_mutex_);
    index = index_;
  }
  return index->List();
}

absl::Status ImageStore::Sync() {
  // One for the whole image; reports write-back errors since Linux 5.8.
  if (syncfs(layers_->root_fd()) != 0) return sys::ErrnoStatus(errno, absl::StrCat("sync ", root_));
  return absl::OkStatus();
}

absl::Status ImageStore::Put(const ImageRecord& record,
                             const std::vector<LayerRecord>& new_layers) {
  ImageRecord merged = record;
  std::vector<BlobRecord> new_blobs = record.blobs;
  const auto known = records_.find(record.id);
  const bool is_new = known == records_.end();
  if (!is_new) {
    merged = known->second;
    for (const std::string& name : record.names) {
      if (std::find(merged.names.begin(), merged.names.end(), name) == merged.names.end()) {
        merged.names.push_back(name);
      }
    }
    std::erase_if(new_blobs, [&merged](const BlobRecord& blob) {
      return std::any_of(merged.blobs.begin(), merged.blobs.end(),
                         [&blob](const BlobRecord& other) { return other.digest == blob.digest; });
    });
    merged.blobs.insert(merged.blobs.end(), new_blobs.begin(), new_blobs.end());
  }
  std::sort(merged.names.begin(), merged.names.end());
  DAVIT_ASSIGN_OR_RETURN(Image image, BuildImage(merged));
  // An image that is known has its layers: what another pull of it has made anew gets no row, or
  // the row would stay when the unused tree goes.
  DAVIT_RETURN_IF_ERROR(
      catalog_->PutImage(merged, is_new ? new_layers : std::vector<LayerRecord>()));
  for (const BlobRecord& blob : new_blobs) blobs_->AddReference(blob.digest, blob.size);
  if (is_new) {
    layers_->AddImage(merged.layers);
    layers_->MarkReady(merged.layers);
  }
  Show(merged, std::move(image));
  return absl::OkStatus();
}

absl::Status ImageStore::Commit(ImageRecord record) {
  std::sort(record.names.begin(), record.names.end());
  absl::Status status;
  {
    sys::MutexLock lock(&write_mutex_);
    std::vector<LayerRecord> new_layers;
    for (const int64_t id : record.layers) {
      if (layers_->IsReady(id)) continue;
      if (const auto layer = layers_->Find(id); layer.has_value()) new_layers.push_back(*layer);
    }
    status = Put(record, new_layers);
  }
  WakeJanitor();  // index.json
  return status;
}

absl::StatusOr<bool> ImageStore::AddNames(const std::string& id,
                                          const std::vector<std::string>& names,
                                          const std::vector<BlobRecord>& blobs) {
  {
    sys::MutexLock lock(&write_mutex_);
    const auto known = records_.find(id);
    if (known == records_.end()) return false;
    ImageRecord record = known->second;
    record.names = names;
    std::sort(record.names.begin(), record.names.end());
    record.blobs = blobs;
    // The kubelet pulls what it has already, again and again: that must not cost a transaction.
    const bool blobs_known = std::all_of(blobs.begin(), blobs.end(), [&](const BlobRecord& blob) {
      return std::any_of(known->second.blobs.begin(), known->second.blobs.end(),
                         [&blob](const BlobRecord& other) { return other.digest == blob.digest; });
    });
    if (blobs_known && SameRecord(record, known->second)) return true;
    DAVIT_RETURN_IF_ERROR(Put(record, {}));
  }
  WakeJanitor();
  return true;
}

bool ImageStore::HasManifest(const std::string& id, const std::string& digest) const {
  sys::MutexLock lock(&write_mutex_);
  const auto it = records_.find(id);
  return it != records_.end() &&
         std::any_of(it->second.blobs.begin(), it->second.blobs.end(),
                     [&digest](const BlobRecord& blob) { return blob.digest == digest; });
}

absl::Status ImageStore::Remove(absl::string_view reference) {
  {
    sys::MutexLock lock(&write_mutex_);
    const std::shared_ptr<const Image> image = Find(reference);
    if (image == nullptr) return absl::OkStatus();
    DAVIT_RETURN_IF_ERROR(catalog_->RemoveImages({image->id}));
    auto node = records_.extract(image->id);
    auto next = std::make_shared<ImageIndex>();
    {
      sys::MutexLock index_lock(&index_mutex_);
      *next = *index_;
    }
    next->Remove(image->id);
    {
      sys::MutexLock index_lock(&index_mutex_);
      index_ = std::move(next);
      trees_.erase(image->id);
    }
    layers_->DropImage(node.mapped().layers);
    for (const BlobRecord& blob : node.mapped().blobs) {
      blobs_->DropReference(blob.digest, blob.size);
    }
  }
  WakeJanitor();
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LayerPin>> ImageStore::PinLayers(absl::string_view image_id) {
  Tree tree;
  {
    sys::MutexLock lock(&index_mutex_);
    const auto it = trees_.find(std::string(image_id));
    if (it == trees_.end()) {
      return absl::NotFoundError(absl::StrCat("image ", image_id, " is not there"));
    }
    tree = it->second;
  }
  if (tree.artifact) {
    return absl::FailedPreconditionError(
        absl::StrCat(image_id, " is an artifact and not a container image"));
  }
  // Should the image go at this moment, either its layers are pinned in time or this is NotFound.
  return MakeLayerPin(this, tree.layers);
}

absl::StatusOr<std::unique_ptr<LayerPin>> ImageStore::RepinLayers(
    const std::vector<std::string>& lower_dirs) {
  std::vector<int64_t> ids;  // bottom first, as MakeLayerPin wants them
  for (auto it = lower_dirs.rbegin(); it != lower_dirs.rend(); ++it) {
    const auto id = layers_->IdOfPath(*it);
    if (!id.has_value()) {
      return absl::NotFoundError(absl::StrCat(*it, " is no layer of this store"));
    }
    if (*id == 0) continue;
    // Without a row, and in use all the same.
    if (!layers_->Find(*id).has_value()) DAVIT_RETURN_IF_ERROR(layers_->AdoptOrphan(*id));
    ids.push_back(*id);
  }
  return MakeLayerPin(this, ids);
}

void ImageStore::StartGarbageCollection() {
  const absl::Status status = layers_->RemoveUnknown();
  if (!status.ok()) spdlog::warn("image store: {}", ShownMessage(status));
  {
    sys::MutexLock lock(&janitor_mutex_);
    collect_ready_ = true;
  }
  WakeJanitor();
}

FsUsage ImageStore::Usage() const {
  FsUsage usage;
  usage.mountpoint = root_;
  const LayerStore::Totals totals = layers_->totals();
  usage.used_bytes = totals.bytes + blobs_->bytes();
  usage.inodes = totals.inodes + blobs_->files();
  return usage;
}

void ImageStore::WakeJanitor() {
  sys::MutexLock lock(&janitor_mutex_);
  janitor_due_ = true;
  janitor_wake_.Signal();
}

void ImageStore::WaitForJanitor() {
  sys::MutexLock lock(&janitor_mutex_);
  while (janitor_due_ || janitor_busy_) janitor_idle_.Wait(&janitor_mutex_);
}

void ImageStore::Janitor() {
  BeQuiet();
  for (absl::Duration pause = kFirstRetry;;) {
    bool with_ready;
    {
      sys::MutexLock lock(&janitor_mutex_);
      janitor_busy_ = false;
      if (!janitor_due_) janitor_idle_.SignalAll();
      const absl::Time again = trash_left_ ? absl::Now() + pause : absl::InfiniteFuture();
      while (!janitor_due_ && !stopping_) {
        if (janitor_wake_.WaitWithDeadline(&janitor_mutex_, again)) break;
      }
      if (stopping_) return;
      janitor_due_ = false;
      janitor_busy_ = true;
      with_ready = collect_ready_;
    }
    CollectGarbage(with_ready);
    const absl::Status status = blobs_->WriteIndex(LayoutEntries());
    if (!status.ok()) spdlog::warn("image store: {}", ShownMessage(status));
    trash_left_ = !layers_->EmptyTrash();
    pause = trash_left_ ? std::min(2 * pause, kLongestRetry) : kFirstRetry;
  }
}

void ImageStore::CollectGarbage(bool with_ready) {
  std::vector<int64_t> gone;
  {
    sys::MutexLock lock(&write_mutex_);
    LayerStore::Garbage garbage = layers_->TakeGarbage(with_ready);
    gone = std::move(garbage.without_row);
    if (!garbage.with_row.empty()) {
      const absl::Status status = catalog_->DeleteLayers(garbage.with_row);
      if (status.ok()) {
        gone.insert(gone.end(), garbage.with_row.begin(), garbage.with_row.end());
      } else {
        spdlog::warn("image store: delete layers: {}", ShownMessage(status));
        layers_->PutBack(garbage.with_row);
      }
    }
  }
  layers_->MoveToTrash(gone);
}

std::vector<OciLayout::Entry> ImageStore::LayoutEntries() const {
  std::vector<OciLayout::Entry> entries;
  sys::MutexLock lock(&write_mutex_);
  for (const auto& [id, record] : records_) {
    const auto manifest = std::find_if(record.blobs.begin(), record.blobs.end(),
                                       [&record = record](const BlobRecord& blob) {
                                         return blob.digest == record.manifest_digest;
                                       });
    if (manifest == record.blobs.end()) continue;
    bool named = false;
    for (const std::string& name : record.names) {
      if (absl::StrContains(name, "@")) continue;
      entries.push_back({manifest->media_type, manifest->digest, manifest->size, name});
      named = true;
    }
    if (!named) entries.push_back({manifest->media_type, manifest->digest, manifest->size, ""});
  }
  return entries;
}

}  // namespace davit::images
