#ifndef DAVIT_IMAGES_UNPACK_LAYER_WRITER_H_
#define DAVIT_IMAGES_UNPACK_LAYER_WRITER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/unpack/layer_tree.h"
#include "images/unpack/pending_records.h"
#include "images/unpack/result.h"
#include "images/unpack/tar_parser.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images::unpack {

// Writes the entries of a layer's tar beneath a directory, in overlayfs form (image-spec layer.md;
// kernel Documentation/filesystems/overlayfs.rst).
// Entries are created exclusively and without following links; of two entries for one path the last
// holds, and a directory over a directory merges. Attributes are set in the order create, owner,
// xattrs, mode, times; directory times come last of all. What needs privileges that the unpacker
// has not (whiteouts, opaque marks, devices, trusted xattrs), and what needs the layers below
// (undescribed parents, hard links to lower files) comes back as records: decided at the end,
// because the order of entries must not matter.
// Needs CAP_CHOWN, FOWNER, FSETID, DAC_OVERRIDE, SETFCAP, and an umask of 0. Not thread-safe.
class LayerWriter : public TarVisitor {
 public:
  // `root` is an empty directory that nobody else touches.
  LayerWriter(sys::UniqueFd root, const Limits& limits, bool lowest_layer);

  absl::Status OnEntry(const TarEntry& entry) override;
  absl::Status OnData(uint64_t offset, absl::string_view data) override;
  absl::Status OnEntryEnd() override;

  // All entries have come. Sets directory times and returns the records in the order in which they
  // are to be applied.
  absl::StatusOr<std::vector<PendingRecords::Record>> Finish();

  uint64_t entries() const { return entries_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t inodes() const { return inodes_; }
  bool has_root_entry() const { return has_root_entry_; }
  uint64_t dropped_whiteouts() const { return dropped_whiteouts_; }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  using Directory = LayerTree::Directory;

  absl::Status Dispatch(const TarEntry& entry);
  // True if the name is one of a layer's marks, and nothing is to be made.
  absl::StatusOr<bool> TakeMark(const std::string& path);
  absl::Status TakeRoot(const TarEntry& entry);
  absl::Status MakeFile(const TarEntry& entry, const Directory& parent, const std::string& name);
  absl::Status MakeDirectory(const TarEntry& entry, const Directory& parent,
                             const std::string& name);
  absl::Status MakeSymlink(const TarEntry& entry, const Directory& parent, const std::string& name);
  absl::Status MakeFifo(const TarEntry& entry, const Directory& parent, const std::string& name);
  absl::Status MakeDevice(const TarEntry& entry, const Directory& parent, const std::string& name);
  absl::Status MakeHardLink(const TarEntry& entry, const std::string& path);
  absl::Status ApplyToDirectory(const TarEntry& entry, int fd, const std::string& path, bool fresh);
  absl::Status FinishFile();
  // Sets what may be set and records or drops the rest. `fd` < 0: nothing can be set.
  absl::Status ApplyXattrs(const TarEntry& entry, int fd, const std::string& path,
                           LayerTree::Final* final_state);
  absl::Status MakeRoom(const Directory& parent, const std::string& name);
  template <typename Create>
  absl::Status CreateReplacing(const Directory& parent, const std::string& name, Create create);
  void Warn(std::string text);

  LayerTree tree_;
  PendingRecords pending_;
  const Limits limits_;
  const bool lowest_layer_;

  const TarEntry* entry_ = nullptr;  // the current one
  std::string path_;                 // of the current file, canonical
  sys::UniqueFd file_;               // the current file, if it is one
  uint64_t end_ = 0;                 // of what has been written to it

  uint64_t entries_ = 0;
  uint64_t declared_bytes_ = 0;
  uint64_t bytes_ = 0;
  uint64_t inodes_ = 0;
  bool has_root_entry_ = false;
  uint64_t dropped_whiteouts_ = 0;
  std::vector<std::string> warnings_;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_LAYER_WRITER_H_
