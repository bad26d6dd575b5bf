#ifndef DAVIT_IMAGES_STORE_OCI_LAYOUT_H_
#define DAVIT_IMAGES_STORE_OCI_LAYOUT_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/digest.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"

namespace davit::images {

// An OCI image layout (image-spec image-layout.md) that people and other tools read:
// <root>/oci-layout, <root>/index.json, <root>/blobs/<algorithm>/<hex>. It holds indexes, manifests
// and configs byte for byte, and layer blobs where they are kept.
//
// A blob stays while somebody holds it: images (by AddReference) and pulls under way (by Hold).
// The last one to let go unlinks it. Nothing is synced here; ImageStore syncs before it commits.
// Thread-safe.
class OciLayout {
 public:
  static absl::StatusOr<std::unique_ptr<OciLayout>> Open(const std::string& root);

  // Keeps a blob from being unlinked while it lives.
  class Hold {
   public:
    Hold(OciLayout* layout, std::string digest, uint64_t size)
        : layout_(layout), digest_(std::move(digest)), size_(size) {}
    ~Hold() { layout_->DropReference(digest_, size_); }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

   private:
    OciLayout* const layout_;
    const std::string digest_;
    const uint64_t size_;
  };

  // Writes bytes whose digest the caller has verified.
  absl::StatusOr<std::unique_ptr<Hold>> Put(const Digest& digest, absl::string_view bytes);
  // The same for a file on the same file system, which is moved here.
  absl::StatusOr<std::unique_ptr<Hold>> Adopt(const Digest& digest, int dirfd,
                                              const std::string& name, uint64_t size);
  // DataLoss if the bytes have another digest.
  absl::StatusOr<std::string> Read(const Digest& digest, size_t limit) const;

  // The blob is there and somebody holds it.
  bool Has(const Digest& digest) const;

  void AddReference(const std::string& digest, uint64_t size);
  void DropReference(const std::string& digest, uint64_t size);

  // Unlinks every blob without a reference. Before any pull.
  void RemoveUnreferenced();

  // Replaces index.json.
  struct Entry {
    std::string media_type;
    std::string digest;
    uint64_t size = 0;
    std::string name;  // org.opencontainers.image.ref.name
  };
  absl::Status WriteIndex(const std::vector<Entry>& entries);

  uint64_t bytes() const;
  uint64_t files() const;

 private:
  // A hold of the blob if it is there and undamaged, else null.
  std::unique_ptr<Hold> HoldGood(const Digest& digest, uint64_t size);
  explicit OciLayout(sys::UniqueFd root) : root_(std::move(root)) {}

  const sys::UniqueFd root_;
  // Held across link and unlink of one name: between "is it there?" and "take it" nobody else may
  // remove it. Neither waits for data.
  mutable sys::Mutex mutex_;
  std::map<std::string, int> references_ ABSL_GUARDED_BY(mutex_);
  uint64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t temporary_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_OCI_LAYOUT_H_
