#ifndef DAVIT_IMAGES_PULL_PULL_JOB_H_
#define DAVIT_IMAGES_PULL_PULL_JOB_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "images/cancel.h"
#include "images/document/image_config.h"
#include "images/document/platform.h"
#include "images/pull/layer_download.h"
#include "images/pull/layer_flights.h"
#include "images/pull/resolve.h"
#include "images/registry/repository_client.h"
#include "images/store/image_store.h"

namespace davit::images {

struct PullOptions {
  LayerDownloadOptions layer;
  int max_parallel_layers = 3;
  Platform host = HostPlatform();
};

// Fetches one resolved image into the store: config, layers in parallel, then one sync and one
// transaction. Used once, by one thread, which it makes nice. Leaves nothing behind when it fails.
class PullJob {
 public:
  PullJob(ImageStore* store, LayerFlights* flights, const PullOptions* options,
          RepositoryClient* client, const ResolvedImage* resolved, const CancelToken* cancel);
  ~PullJob();

  // The image id. `names` are what the image is then known by.
  absl::StatusOr<std::string> Run(const std::vector<std::string>& names);

 private:
  struct Layer;
  class Workers;

  absl::Status FetchConfig();
  absl::Status CheckConfig(const ParsedConfig& config) const;
  void PlanLayers();
  absl::Status CheckSpace() const;
  absl::Status MakeLayers();
  absl::Status MakeLayer(size_t index);
  absl::Status DownloadHere(size_t index);
  absl::StatusOr<std::unique_ptr<UnpackedLayer>> Download(const Layer& layer) const;
  absl::Status PublishLayer(size_t index);
  absl::Status KeepMissingBlobs();
  absl::StatusOr<std::string> RunArtifact(const std::vector<std::string>& names);
  absl::Status HoldDocuments();
  absl::StatusOr<std::string> Commit(const std::vector<std::string>& names);

  ImageStore* const store_;
  LayerFlights* const flights_;
  const PullOptions& options_;
  RepositoryClient& client_;
  const ResolvedImage& resolved_;
  // Cancelled with the pull, or when one layer has failed and the others need not go on.
  CancelToken cancel_;
  ImageRecord record_;
  std::vector<std::unique_ptr<Layer>> layers_;  // bottom first
  std::vector<std::unique_ptr<OciLayout::Hold>> holds_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_PULL_JOB_H_
