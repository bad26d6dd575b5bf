#ifndef DAVIT_IMAGES_PULL_LAYER_DOWNLOAD_H_
#define DAVIT_IMAGES_PULL_LAYER_DOWNLOAD_H_

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "images/cancel.h"
#include "images/digest.h"
#include "images/document/manifest.h"
#include "images/registry/repository_client.h"
#include "images/store/image_store.h"
#include "images/unpack/client.h"
#include "images/unpack/result.h"

namespace davit::images {

// How an unpack begins: StartUnpackProcess, or a test's own.
using UnpackerFactory = std::function<absl::StatusOr<std::unique_ptr<unpack::Unpacker>>(
    const unpack::UnpackOptions& options)>;

struct LayerDownloadOptions {
  UnpackerFactory unpacker;
  int helper_fd = -1;
  absl::Duration stall_timeout = absl::Seconds(60);
  bool keep_blob = false;
};

// A layer whose tree lies in a staging directory: every digest is right, the fix-ups are still to
// be made. Abandons the staging directory unless it has been published.
class UnpackedLayer {
 public:
  UnpackedLayer(ImageStore* store, LayerStore::Staging staging)
      : store_(store), staging_(std::move(staging)) {}
  ~UnpackedLayer() {
    if (staging_.id != 0) store_->layers().Abandon(staging_.id);
  }
  UnpackedLayer(const UnpackedLayer&) = delete;
  UnpackedLayer& operator=(const UnpackedLayer&) = delete;

  int64_t id() const { return staging_.id; }
  int dir() const { return staging_.dir.get(); }
  void Published() { staging_.id = 0; }

  unpack::UnpackResult result;
  std::unique_ptr<OciLayout::Hold> blob;  // with keep_blob

 private:
  ImageStore* const store_;
  LayerStore::Staging staging_;
};

// Streams one layer from the registry through its unpacker into a new staging directory, in one
// pass: network, digest of the compressed bytes here; decompression, diff ID and files there.
// Errors: as RepositoryClient and Unpacker; DataLoss if the diff ID is not `diff_id`;
// DeadlineExceeded if the unpacker makes no progress for the stall time.
absl::StatusOr<std::unique_ptr<UnpackedLayer>> DownloadLayer(
    ImageStore* store, RepositoryClient& client, const Descriptor& layer, const Digest& diff_id,
    bool lowest, const LayerDownloadOptions& options, const CancelToken& cancel);

// Fetches a blob into the OCI layout as it is.
absl::StatusOr<std::unique_ptr<OciLayout::Hold>> DownloadBlob(ImageStore* store,
                                                              RepositoryClient& client,
                                                              const Descriptor& descriptor,
                                                              const CancelToken& cancel);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_LAYER_DOWNLOAD_H_
