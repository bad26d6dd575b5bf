#ifndef DAVIT_IMAGES_UNPACK_PENDING_RECORDS_H_
#define DAVIT_IMAGES_UNPACK_PENDING_RECORDS_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "images/unpack/layer_tree.h"
#include "images/unpack/tar_entry.h"
#include "proto/unpack.pb.h"

namespace davit::images::unpack {

// What a layer asks for and the unpacker may not do: whiteouts, opaque marks, devices, trusted
// xattrs, and what needs the layers below. Kept until the layer is complete, because only then it
// is known what the layer itself has at each path: a whiteout hides lower layers only, and of two
// entries for one path the last holds. All paths are canonical (LayerTree). Not thread-safe.
class PendingRecords {
 public:
  using Record = ::davit::unpack::v1::Record;

  explicit PendingRecords(uint64_t max_records) : left_(max_records) {}

  // Each is FailedPrecondition once there are more than `max_records`.
  absl::Status AddWhiteout(const std::string& path);
  absl::Status AddOpaque(const std::string& directory);
  absl::Status AddDevice(const std::string& path, const TarEntry& entry);
  absl::Status AddTrustedXattr(const std::string& path, const std::string& name,
                               const std::string& value);
  // A hard link to `target`, which the layer has not as a file: to a pending device, to what a
  // pending link points to, or to a lower layer's file.
  absl::Status AddLink(const std::string& path, const std::string& target);

  bool HasNode(const std::string& path) const { return nodes_.count(path) != 0; }

  // An entry takes the place of what was at `path`; or a directory went with all beneath it.
  void Replaced(const std::string& path);
  void RemovedBeneath(const std::string& path);

  // Decides what holds, against the finished tree, in the order in which it is to be applied.
  absl::StatusOr<std::vector<Record>> Collect(const LayerTree& tree) const;

 private:
  struct Node {
    Record record;
    uint64_t order = 0;
    // Of a link to a device: that device's path and order.
    std::string device;
    uint64_t device_order = 0;
  };

  absl::Status Count();
  absl::Status CollectWhiteouts(const LayerTree& tree, std::set<std::string>* hidden,
                                std::vector<Record>* records) const;
  absl::Status CollectNodes(const LayerTree& tree, std::vector<Record>* records) const;
  absl::Status CollectXattrs(const LayerTree& tree, std::vector<Record>* records) const;
  absl::Status CollectImplicitParents(const LayerTree& tree, const std::set<std::string>& hidden,
                                      std::vector<Record>* records) const;

  uint64_t left_;
  uint64_t next_order_ = 0;
  std::set<std::string> whiteouts_;
  std::set<std::string> opaque_;
  std::map<std::string, Node> nodes_;
  std::map<std::string, std::vector<Record>> xattrs_;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_PENDING_RECORDS_H_
