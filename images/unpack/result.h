#ifndef DAVIT_IMAGES_UNPACK_RESULT_H_
#define DAVIT_IMAGES_UNPACK_RESULT_H_

#include <cstdint>
#include <string>
#include <vector>

namespace davit::images::unpack {

// Bounds on one layer. All come from an attacker's point of view: whatever is not bounded here is
// bounded by the format itself (a PAX header 1 MiB, a name 4095 bytes, a zstd window 128 MiB).
struct Limits {
  uint64_t max_tar_bytes = 64ull << 30;   // of the uncompressed tar stream
  uint64_t max_file_bytes = 64ull << 30;  // logical sizes of all files together, holes included
  uint64_t max_entries = 4'000'000;       // tar entries
  uint64_t max_records = 1'000'000;       // whiteouts, opaque marks, devices and fix-ups together
  uint32_t max_path_depth = 1024;         // components of a path
  uint32_t max_xattr_bytes = 256 * 1024;  // of one entry, names and values
  // Uncompressed per compressed byte, judged once `ratio_floor_bytes` have come out, so that a file
  // of zeros passes. Deflate cannot exceed 1032; zstd can.
  uint32_t max_ratio = 2000;
  uint64_t ratio_floor_bytes = 256 << 20;
};

enum class Compression { kNone, kGzip, kZstd };

// A hard link to a file that this layer does not hold. Nothing exists at `path` yet.
struct CrossLayerLink {
  std::string path;
  std::string target;
};

// What can only be finished when the layers below are known. All paths are relative to the layer's
// top directory, have neither "." nor "..", neither a leading nor a trailing slash, and lead
// through no symbolic link of this layer. They come from a process that may be compromised: the
// client has checked their form, but whoever applies them resolves them with RootFd and nothing
// else.
struct FixUps {
  // Directories that the layer uses but does not describe, parents before children. They exist,
  // 0755 and root's; they should take owner, mode and xattrs from the nearest lower layer that has
  // the directory.
  std::vector<std::string> implicit_parents;
  std::vector<CrossLayerLink> hard_links;  // in the order of the tar

  bool empty() const { return implicit_parents.empty() && hard_links.empty(); }
};

struct UnpackResult {
  std::string diff_id;             // "sha256:<hex>" of the whole uncompressed stream
  uint64_t compressed_size = 0;    // bytes that Write took
  uint64_t uncompressed_size = 0;  // bytes of the tar stream, with whatever follows its end mark
  uint64_t entries = 0;            // tar entries, extension headers not counted
  // Of what was created, for usage figures: content bytes (no holes) and inodes. Something that a
  // later entry of the same layer replaced is still counted.
  uint64_t bytes = 0;
  uint64_t inodes = 0;
  Compression compression = Compression::kNone;
  // The layer described its top directory ("./"): owner, mode and xattrs are on the staging
  // directory. If not, those of the next lower layer that did are the root's.
  bool has_root_entry = false;
  // The layer hides everything below it. overlayfs does not obey an opaque mark on a layer's top
  // directory: leave out the layers below.
  bool opaque_root = false;
  // Whiteouts and opaque marks that were left out because of UnpackOptions::lowest_layer. If there
  // are any, this tree may only ever be the lowest of an image.
  uint64_t dropped_whiteouts = 0;
  FixUps fix_ups;
  std::vector<std::string> warnings;  // for the log, at most 32: dropped xattrs and the like
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_RESULT_H_
