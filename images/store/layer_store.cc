#include "images/store/layer_store.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

std::string LayerPath(int64_t id) { return absl::StrCat("layers/", id); }
std::string StagingPath(int64_t id) { return absl::StrCat("staging/", id); }

// What the store names by ids.
bool IsNumber(const std::string& name) {
  int64_t id = 0;
  return absl::SimpleAtoi(name, &id) && absl::StrCat(id) == name;
}

absl::StatusOr<std::vector<std::string>> NamesIn(int dirfd, const std::string& path) {
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd fd, sys::OpenAt(dirfd, path, O_RDONLY | O_DIRECTORY));
  DIR* dir = fdopendir(fd.get());
  if (dir == nullptr) return sys::ErrnoStatus(errno, absl::StrCat("read directory ", path));
  (void)fd.release();
  const auto close = absl::MakeCleanup([dir] { closedir(dir); });
  std::vector<std::string> names;
  while (const dirent* entry = readdir(dir)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  return names;
}

}  // namespace

bool MayMove(LayerState from, LayerState to) {
  switch (from) {
    case LayerState::kAbsent:
      return to == LayerState::kUnpacking;
    case LayerState::kUnpacking:
      return to == LayerState::kStaged || to == LayerState::kAbsent;
    case LayerState::kStaged:
      return to == LayerState::kReady || to == LayerState::kDeleting;
    case LayerState::kReady:
      return to == LayerState::kDeleting;
    case LayerState::kDeleting:
      return to == LayerState::kAbsent || to == LayerState::kReady;
  }
  return false;
}

void LayerStore::Move(Layer* layer, LayerState to) {
  if (!MayMove(layer->state, to)) std::abort();  // a wrong move could delete a layer in use
  layer->state = to;
}

absl::StatusOr<std::unique_ptr<LayerStore>> LayerStore::Open(const std::string& root) {
  for (const char* directory : {"", "/layers", "/layers/0", "/layer-index", "/staging", "/trash"}) {
    // Not open to other users of the node: images hold set-uid programs and secrets
    // (CVE-2024-25621).
    const mode_t mode = absl::string_view(directory) == "/layers/0" ? 0755 : 0700;
    DAVIT_RETURN_IF_ERROR(sys::MakeDirs(absl::StrCat(root, directory), mode));
  }
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd fd, sys::OpenAt(AT_FDCWD, root, O_RDONLY | O_DIRECTORY));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd indexes,
                         sys::OpenAt(fd.get(), "layer-index", O_RDONLY | O_DIRECTORY));
  return std::unique_ptr<LayerStore>(new LayerStore(root, std::move(fd), std::move(indexes)));
}

absl::Status LayerStore::Adopt(const LayerRecord& record) {
  struct stat st;
  if (fstatat(root_.get(), LayerPath(record.id).c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    return sys::ErrnoStatus(errno, absl::StrCat("layer ", record.id, " (", record.diff_id, ")"));
  }
  if (!S_ISDIR(st.st_mode)) {
    return absl::DataLossError(absl::StrCat("layer ", record.id, " (", record.diff_id,
                                            "): ", Path(record.id), " is not a directory"));
  }
  sys::MutexLock lock(&mutex_);
  Layer& layer = layers_[record.id];
  layer.record = record;
  layer.state = LayerState::kReady;
  by_key_[record.key] = record.id;
  next_id_ = std::max(next_id_, record.id + 1);
  return absl::OkStatus();
}

absl::Status LayerStore::AdoptOrphan(int64_t id) {
  LayerRecord record;
  record.id = id;
  record.key = absl::StrCat("orphan:", id);  // no image asks for it
  return Adopt(record);
}

void LayerStore::SetNextId(int64_t next_id) {
  sys::MutexLock lock(&mutex_);
  next_id_ = std::max(next_id_, next_id);
}

absl::Status LayerStore::Discard(const std::string& path) {
  uint64_t sequence;
  {
    sys::MutexLock lock(&mutex_);
    sequence = ++trash_sequence_;
  }
  // The pid keeps the names of two runs apart.
  const std::string to = absl::StrCat("trash/", getpid(), "-", sequence);
  if (renameat(root_.get(), path.c_str(), root_.get(), to.c_str()) != 0 && errno != ENOENT) {
    return sys::ErrnoStatus(errno, absl::StrCat("move ", path, " to the trash"));
  }
  return absl::OkStatus();
}

absl::Status LayerStore::RemoveStaged() {
  DAVIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(root_.get(), "staging"));
  for (const std::string& name : names) {
    if (!IsNumber(name) && !absl::StartsWith(name, "blob-")) continue;
    DAVIT_RETURN_IF_ERROR(Discard(absl::StrCat("staging/", name)));
  }
  return absl::OkStatus();
}

absl::Status LayerStore::RemoveUnknown() {
  std::set<std::string> known = {"0"};
  {
    sys::MutexLock lock(&mutex_);
    for (const auto& [id, layer] : layers_) known.insert(absl::StrCat(id));
  }
  for (const std::string directory : {"layers", "layer-index"}) {
    DAVIT_ASSIGN_OR_RETURN(const std::vector<std::string> names, NamesIn(root_.get(), directory));
    for (const std::string& name : names) {
      if (known.contains(name) || !IsNumber(name)) continue;
      const std::string path = absl::StrCat(directory, "/", name);
      // What is no directory where a layer would be one is not of our making.
      struct stat st;
      const bool layer = directory == "layers";
      if (fstatat(root_.get(), path.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0 ||
          (layer ? !S_ISDIR(st.st_mode) : !S_ISREG(st.st_mode))) {
        continue;
      }
      DAVIT_RETURN_IF_ERROR(Discard(path));
    }
  }
  return absl::OkStatus();
}

LayerStore::Layer* LayerStore::ByKey(const std::string& key) {
  const auto it = by_key_.find(key);
  return it == by_key_.end() ? nullptr : &layers_.at(it->second);
}

std::optional<LayerRecord> LayerStore::Acquire(absl::string_view diff_id,
                                               absl::string_view chain_id) {
  sys::MutexLock lock(&mutex_);
  Layer* layer = ByKey(absl::StrCat("diff:", diff_id));
  if (layer == nullptr) layer = ByKey(absl::StrCat("chain:", chain_id));
  if (layer == nullptr) return std::nullopt;
  ++layer->pins;
  return layer->record;
}

bool LayerStore::Pin(int64_t id) {
  sys::MutexLock lock(&mutex_);
  const auto it = layers_.find(id);
  if (it == layers_.end() || it->second.state == LayerState::kDeleting ||
      it->second.state == LayerState::kUnpacking) {
    return false;
  }
  ++it->second.pins;
  return true;
}

void LayerStore::Unpin(int64_t id) {
  sys::MutexLock lock(&mutex_);
  const auto it = layers_.find(id);
  if (it == layers_.end() || it->second.pins <= 0) std::abort();
  --it->second.pins;
}

absl::StatusOr<LayerStore::Staging> LayerStore::Begin() {
  Staging staging;
  {
    sys::MutexLock lock(&mutex_);
    staging.id = next_id_++;
    layers_[staging.id].record.id = staging.id;
  }
  const std::string path = StagingPath(staging.id);
  absl::Status status = sys::MakeDirAt(root_.get(), path, 0755);
  if (status.ok()) {
    auto dir = sys::OpenAt(root_.get(), path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    status = dir.status();
    if (dir.ok()) staging.dir = *std::move(dir);
  }
  if (!status.ok()) {
    Abandon(staging.id);
    return status;
  }
  return staging;
}

void LayerStore::Abandon(int64_t id) {
  {
    sys::MutexLock lock(&mutex_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) return;
    Move(&it->second, LayerState::kAbsent);
    layers_.erase(it);
  }
  // At once and not through the trash: a full disk is why many a pull is abandoned. What cannot be
  // removed now, for want of a descriptor say, is the janitor's.
  const std::string path = StagingPath(id);
  if (!sys::RemoveTreeAt(root_.get(), path).ok()) (void)Discard(path);
}

absl::StatusOr<LayerRecord> LayerStore::Publish(LayerRecord record, const std::string& index) {
  const int64_t id = record.id;
  DAVIT_RETURN_IF_ERROR(sys::WriteFileAtomic(indexes_.get(), absl::StrCat(id), index, 0600,
                                             sys::Durability::kProcess));
  {
    sys::MutexLock lock(&mutex_);
    Layer& layer = layers_.at(id);
    Layer* const other = ByKey(record.key);
    if (other == nullptr) {
      if (renameat(root_.get(), StagingPath(id).c_str(), root_.get(), LayerPath(id).c_str()) != 0) {
        return sys::ErrnoStatus(errno, absl::StrCat("publish layer ", record.diff_id));
      }
      Move(&layer, LayerState::kStaged);
      layer.record = record;
      layer.pins = 1;
      by_key_[record.key] = id;
      return record;
    }
    ++other->pins;
    record = other->record;
  }
  unlinkat(indexes_.get(), absl::StrCat(id).c_str(), 0);
  Abandon(id);
  return record;
}

bool LayerStore::IsReady(int64_t id) const {
  sys::MutexLock lock(&mutex_);
  const auto it = layers_.find(id);
  return it != layers_.end() && it->second.state == LayerState::kReady;
}

void LayerStore::MarkReady(const std::vector<int64_t>& ids) {
  sys::MutexLock lock(&mutex_);
  for (const int64_t id : ids) {
    Layer& layer = layers_.at(id);
    if (layer.state != LayerState::kReady) Move(&layer, LayerState::kReady);
  }
}

void LayerStore::AddImage(const std::vector<int64_t>& ids) {
  sys::MutexLock lock(&mutex_);
  for (const int64_t id : ids) ++layers_.at(id).images;
}

void LayerStore::DropImage(const std::vector<int64_t>& ids) {
  sys::MutexLock lock(&mutex_);
  for (const int64_t id : ids) --layers_.at(id).images;
}

LayerStore::Garbage LayerStore::TakeGarbage(bool with_ready) {
  Garbage garbage;
  sys::MutexLock lock(&mutex_);
  for (auto& [id, layer] : layers_) {
    if (layer.pins > 0 || layer.images > 0) continue;
    if (layer.state == LayerState::kStaged) {
      garbage.without_row.push_back(id);
    } else if (with_ready && layer.state == LayerState::kReady) {
      garbage.with_row.push_back(id);
    } else {
      continue;
    }
    Move(&layer, LayerState::kDeleting);
    // A pull that wants it from now on makes a new one, with another id.
    by_key_.erase(layer.record.key);
  }
  return garbage;
}

void LayerStore::PutBack(const std::vector<int64_t>& ids) {
  sys::MutexLock lock(&mutex_);
  for (const int64_t id : ids) {
    Layer& layer = layers_.at(id);
    Move(&layer, LayerState::kReady);
    by_key_.emplace(layer.record.key, id);
  }
}

void LayerStore::MoveToTrash(const std::vector<int64_t>& ids) {
  for (const int64_t id : ids) {
    (void)Discard(LayerPath(id));  // what stays goes at the next start: it has no row
    unlinkat(indexes_.get(), absl::StrCat(id).c_str(), 0);
    sys::MutexLock lock(&mutex_);
    const auto it = layers_.find(id);
    if (it == layers_.end()) continue;
    Move(&it->second, LayerState::kAbsent);
    layers_.erase(it);
  }
}

bool LayerStore::EmptyTrash() {
  const auto names = NamesIn(root_.get(), "trash");
  if (!names.ok()) return false;
  bool empty = true;
  for (const std::string& name : *names) {
    empty = sys::RemoveTreeAt(root_.get(), absl::StrCat("trash/", name)).ok() && empty;
  }
  return empty;
}

std::string LayerStore::Path(int64_t id) const { return absl::StrCat(path_, "/", LayerPath(id)); }

std::optional<int64_t> LayerStore::IdOfPath(const std::string& path) const {
  const absl::string_view name = absl::string_view(path).substr(path.rfind('/') + 1);
  int64_t id = -1;
  if (!absl::SimpleAtoi(name, &id) || id < 0 || absl::StrCat(id) != name) return std::nullopt;
  if (path == Path(id)) return id;
  // The root may have been named otherwise when the path was written down (through a link, with a
  // slash too many): a container's layers are not to be lost over that.
  struct stat named;
  struct stat own;
  if (path[0] != '/' || stat(path.c_str(), &named) != 0 ||
      fstatat(root_.get(), LayerPath(id).c_str(), &own, AT_SYMLINK_NOFOLLOW) != 0 ||
      named.st_dev != own.st_dev || named.st_ino != own.st_ino) {
    return std::nullopt;
  }
  return id;
}

std::optional<LayerRecord> LayerStore::Find(int64_t id) const {
  sys::MutexLock lock(&mutex_);
  const auto it = layers_.find(id);
  if (it == layers_.end()) return std::nullopt;
  return it->second.record;
}

absl::StatusOr<sys::UniqueFd> LayerStore::OpenLayer(int64_t id) const {
  return sys::OpenAt(root_.get(), LayerPath(id), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
}

LayerStore::Totals LayerStore::totals() const {
  Totals totals;
  sys::MutexLock lock(&mutex_);
  for (const auto& [id, layer] : layers_) {
    totals.bytes += layer.record.bytes;
    totals.inodes += layer.record.inodes;
  }
  return totals;
}

}  // namespace davit::images
