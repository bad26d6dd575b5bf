#include "images/unpack/pending_records.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "images/unpack/beneath.h"
#include "images/unpack/layer_path.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

enum class Found { kNothing, kDirectory, kOther, kNoParent };

// What the layer has at a canonical path now.
absl::StatusOr<Found> Look(const LayerTree& tree, const std::string& path) {
  const sys::UniqueFd parent = OpenBeneath(tree.root(), ParentOf(path), O_PATH | O_DIRECTORY);
  if (!parent.ok()) {
    if (errno == ENOENT || errno == ENOTDIR || errno == ELOOP) return Found::kNoParent;
    return sys::ErrnoStatus(errno, absl::StrCat("open the parent of ", absl::CEscape(path)));
  }
  struct stat st;
  const std::string name = path.empty() ? "." : std::string(NameOf(path));
  if (fstatat(parent.get(), name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return Found::kNothing;
    return sys::ErrnoStatus(errno, absl::StrCat("stat ", absl::CEscape(path)));
  }
  return S_ISDIR(st.st_mode) ? Found::kDirectory : Found::kOther;
}

using ::davit::unpack::v1::Record;

Record MakeRecord(Record::Kind kind, const std::string& path) {
  Record record;
  record.set_kind(kind);
  record.set_path(path);
  return record;
}

}  // namespace

absl::Status PendingRecords::Count() {
  if (left_ == 0) {
    return absl::FailedPreconditionError(
        "the layer has too many whiteouts, devices and links to lower layers");
  }
  --left_;
  return absl::OkStatus();
}

absl::Status PendingRecords::AddWhiteout(const std::string& path) {
  DAVIT_RETURN_IF_ERROR(Count());
  whiteouts_.insert(path);
  return absl::OkStatus();
}

absl::Status PendingRecords::AddOpaque(const std::string& directory) {
  DAVIT_RETURN_IF_ERROR(Count());
  opaque_.insert(directory);
  return absl::OkStatus();
}

absl::Status PendingRecords::AddDevice(const std::string& path, const TarEntry& entry) {
  DAVIT_RETURN_IF_ERROR(Count());
  Node node;
  node.order = next_order_++;
  node.record = MakeRecord(
      entry.type == EntryType::kCharDevice ? Record::CHARACTER_DEVICE : Record::BLOCK_DEVICE, path);
  node.record.set_mode(entry.mode);
  node.record.set_uid(entry.uid);
  node.record.set_gid(entry.gid);
  node.record.set_mtime_seconds(entry.mtime.tv_sec);
  node.record.set_mtime_nanoseconds(static_cast<uint32_t>(entry.mtime.tv_nsec));
  node.record.set_device_major(entry.major);
  node.record.set_device_minor(entry.minor);
  nodes_[path] = std::move(node);
  return absl::OkStatus();
}

absl::Status PendingRecords::AddTrustedXattr(const std::string& path, const std::string& name,
                                             const std::string& value) {
  DAVIT_RETURN_IF_ERROR(Count());
  Record record = MakeRecord(Record::TRUSTED_XATTR, path);
  record.set_name(name);
  record.set_value(value);
  xattrs_[path].push_back(std::move(record));
  return absl::OkStatus();
}

absl::Status PendingRecords::AddLink(const std::string& path, const std::string& target) {
  if (path == target) return absl::OkStatus();
  DAVIT_RETURN_IF_ERROR(Count());
  Node node;
  const auto found = nodes_.find(target);
  if (found == nodes_.end()) {
    node.record = MakeRecord(Record::LOWER_LINK, path);
    node.record.set_target(target);
  } else {
    // A link to a link is one to the same inode; a link to a device is also a device, should the
    // first name of it be replaced.
    node = found->second;
    node.record.set_path(path);
    if (node.record.kind() != Record::LOWER_LINK && node.device.empty()) {
      node.device = target;
      node.device_order = found->second.order;
    }
  }
  node.order = next_order_++;
  nodes_[path] = std::move(node);
  return absl::OkStatus();
}

void PendingRecords::Replaced(const std::string& path) {
  if (!nodes_.empty()) nodes_.erase(path);
  if (!xattrs_.empty()) xattrs_.erase(path);
}

void PendingRecords::RemovedBeneath(const std::string& path) {
  Replaced(path);
  EraseBeneath(&whiteouts_, path);
  EraseBeneath(&opaque_, path);
  EraseBeneath(&nodes_, path);
  EraseBeneath(&xattrs_, path);
  opaque_.erase(path);
}

absl::StatusOr<std::vector<PendingRecords::Record>> PendingRecords::Collect(
    const LayerTree& tree) const {
  std::vector<Record> records;
  std::set<std::string> hidden;
  DAVIT_RETURN_IF_ERROR(CollectWhiteouts(tree, &hidden, &records));
  DAVIT_RETURN_IF_ERROR(CollectXattrs(tree, &records));
  DAVIT_RETURN_IF_ERROR(CollectImplicitParents(tree, hidden, &records));
  DAVIT_RETURN_IF_ERROR(CollectNodes(tree, &records));
  return records;
}

// `hidden` gets the directories that replace whatever is below, themselves included: nothing of
// theirs can come from a lower layer.
absl::Status PendingRecords::CollectWhiteouts(const LayerTree& tree, std::set<std::string>* hidden,
                                              std::vector<Record>* records) const {
  std::set<std::string> opaque = opaque_;
  for (const std::string& path : whiteouts_) {
    if (HasNode(path)) continue;
    DAVIT_ASSIGN_OR_RETURN(const Found found, Look(tree, path));
    if (found == Found::kNothing) records->push_back(MakeRecord(Record::WHITEOUT, path));
    if (found == Found::kDirectory) {
      opaque.insert(path);
      hidden->insert(path);
    }
  }
  for (const std::string& path : opaque) {
    DAVIT_ASSIGN_OR_RETURN(const Found found, Look(tree, path));
    if (found == Found::kDirectory) records->push_back(MakeRecord(Record::OPAQUE, path));
  }
  return absl::OkStatus();
}

absl::Status PendingRecords::CollectNodes(const LayerTree& tree,
                                          std::vector<Record>* records) const {
  std::vector<std::pair<uint64_t, const Node*>> ordered;
  for (const auto& [path, node] : nodes_) {
    DAVIT_ASSIGN_OR_RETURN(const Found found, Look(tree, path));
    if (found == Found::kNothing) ordered.emplace_back(node.order, &node);
  }
  std::sort(ordered.begin(), ordered.end());
  std::set<uint64_t> kept;
  for (const auto& [order, node] : ordered) kept.insert(order);
  for (const auto& [order, node] : ordered) {
    Record record = node->record;
    if (!node->device.empty() && kept.count(node->device_order) != 0) {
      record = MakeRecord(Record::DEVICE_LINK, node->record.path());
      record.set_target(node->device);
    }
    records->push_back(std::move(record));
  }
  return absl::OkStatus();
}

absl::Status PendingRecords::CollectXattrs(const LayerTree& tree,
                                           std::vector<Record>* records) const {
  for (const auto& [path, list] : xattrs_) {
    DAVIT_ASSIGN_OR_RETURN(const Found found, Look(tree, path));
    if (found != Found::kDirectory && found != Found::kOther) continue;
    records->insert(records->end(), list.begin(), list.end());
  }
  return absl::OkStatus();
}

absl::Status PendingRecords::CollectImplicitParents(const LayerTree& tree,
                                                    const std::set<std::string>& hidden,
                                                    std::vector<Record>* records) const {
  for (const auto& [path, final_state] : tree.finals()) {
    if (!final_state.implicit || hidden.count(path) != 0) continue;
    bool beneath_hidden = opaque_.count("") != 0;
    for (std::string up = path; !up.empty() && !beneath_hidden;) {
      up = std::string(ParentOf(up));
      beneath_hidden = hidden.count(up) != 0 || opaque_.count(up) != 0;
    }
    if (!beneath_hidden) records->push_back(MakeRecord(Record::IMPLICIT_PARENT, path));
  }
  return absl::OkStatus();
}

}  // namespace davit::images::unpack
