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
#include "runtime/sys/steps.h"

namespace davit::images {

struct PullOptions {
  LayerDownloadOptions layer;
  int max_parallel_layers = 3;
  Platform host = HostPlatform();
  sys::Faults* faults = nullptr;  // for tests: what steps have to suffer; borrowed
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

  // The steps of every operation.
  static std::vector<sys::OperationSteps> Steps();

 private:
  struct Layer;
  class Workers;
  using PullOperation = sys::Operation<PullJob>;
  using LayerOperation = sys::Operation<PullJob, size_t>;

  static const PullOperation& ImageSteps();
  absl::Status FetchConfig();
  absl::Status CheckConfig(const ParsedConfig& config) const;
  absl::Status PlanLayers();
  absl::Status CheckSpace();
  absl::Status MakeLayers();
  absl::Status MakeLayer(size_t index);
  // On a thread of its own, while layers below are still being published.
  static const LayerOperation& UnpackLayerSteps();
  absl::Status DownloadHere(size_t index);
  absl::Status UnpackLayer(size_t index);
  absl::Status SummariseLayer(size_t index);
  absl::StatusOr<std::unique_ptr<UnpackedLayer>> Download(const Layer& layer) const;
  // In order from the bottom up.
  static const LayerOperation& PublishLayerSteps();
  absl::Status PublishLayer(size_t index);
  absl::Status FixLayerUp(size_t index);
  absl::Status MoveLayer(size_t index);
  absl::Status KeepMissingBlobs();
  static const PullOperation& ArtifactSteps();
  absl::Status DescribeArtifact();
  absl::Status CheckArtifactSpace();
  absl::Status FetchParts();
  absl::Status HoldDocuments();
  absl::Status CompleteRecord();
  absl::Status SyncStore();
  absl::Status Commit();

  ImageStore* const store_;
  LayerFlights* const flights_;
  const PullOptions& options_;
  RepositoryClient& client_;
  const ResolvedImage& resolved_;
  // Cancelled with the pull, or when one layer has failed and the others need not go on.
  CancelToken cancel_;
  std::vector<std::string> names_;
  ImageRecord record_;
  std::vector<std::unique_ptr<Layer>> layers_;  // bottom first
  std::vector<std::unique_ptr<OciLayout::Hold>> holds_;
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_PULL_JOB_H_
