#include "images/pull/pull_job.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "images/pull/disk_space.h"
#include "images/pull/fix_ups.h"
#include "images/store/layer_index.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/thread.h"

namespace davit::images {
namespace {

constexpr int kNice = 10;

// Pulling must not take the CPU from containers.
void BeNice() { setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kNice); }

}  // namespace

struct PullJob::Layer {
  Descriptor descriptor;
  Digest diff_id;
  std::string chain_id;
  bool lowest = false;
  bool repeated = false;              // the same diff ID is below, and not there yet
  std::optional<LayerRecord> record;  // pinned by this job
  std::unique_ptr<LayerFlights::Lead> lead;
  std::unique_ptr<UnpackedLayer> unpacked;
  std::optional<TreeSummary> summary;
};

// Downloads the layers that this job leads, a few at a time.
class PullJob::Workers {
 public:
  explicit Workers(PullJob* job) : job_(job) {
    for (size_t i = 0; i < job_->layers_.size(); ++i) {
      if (job_->layers_[i]->lead != nullptr) queue_.push_back(i);
    }
    // The largest first, or it would run alone at the end.
    std::stable_sort(queue_.begin(), queue_.end(), [this](size_t a, size_t b) {
      return job_->layers_[a]->descriptor.size > job_->layers_[b]->descriptor.size;
    });
    results_.resize(job_->layers_.size());
    const size_t limit = static_cast<size_t>(std::max(1, job_->options_.max_parallel_layers));
    const size_t count = std::min(queue_.size(), limit);
    for (size_t i = 0; i < count; ++i) {
      auto thread = sys::StartThread([this] { Run(); });
      if (thread.ok()) {
        threads_.push_back(*std::move(thread));
      } else if (threads_.empty()) {
        // Nobody to do it. Otherwise those that are there do all of it.
        results_.assign(results_.size(), thread.status());
        break;
      }
    }
  }
  ~Workers() {
    for (std::thread& thread : threads_) thread.join();
  }

  // Waits for the download of a layer.
  absl::Status Wait(size_t index) {
    sys::MutexLock lock(&mutex_);
    while (!results_[index].has_value()) changed_.Wait(&mutex_);
    // A layer that was stopped because another failed is not the reason.
    if (absl::IsCancelled(*results_[index]) && !failure_.ok()) return failure_;
    return *results_[index];
  }

 private:
  void Run() {
    BeNice();
    for (;;) {
      size_t index;
      {
        sys::MutexLock lock(&mutex_);
        if (next_ == queue_.size()) return;
        index = queue_[next_++];
      }
      const absl::Status status = job_->DownloadHere(index);
      sys::MutexLock lock(&mutex_);
      results_[index] = status;
      if (!status.ok() && failure_.ok()) {
        failure_ = status;
        job_->cancel_.CancelForever();
      }
      changed_.SignalAll();
    }
  }

  PullJob* const job_;
  std::vector<size_t> queue_;
  sys::Mutex mutex_;
  sys::CondVar changed_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<std::optional<absl::Status>> results_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_;
};

PullJob::PullJob(ImageStore* store, LayerFlights* flights, const PullOptions* options,
                 RepositoryClient* client, const ResolvedImage* resolved, const CancelToken* cancel)
    : store_(store),
      flights_(flights),
      options_(*options),
      client_(*client),
      resolved_(*resolved),
      cancel_(cancel) {}

PullJob::~PullJob() {
  for (const auto& layer : layers_) {
    if (layer->record.has_value()) store_->layers().Unpin(layer->record->id);
  }
  layers_.clear();
  // Layers that were made for nothing go at once.
  store_->WakeJanitor();
}

const PullJob::PullOperation& PullJob::ImageSteps() {
  static const PullOperation steps(
      "pull image",
      {{"fetch its config", &PullJob::FetchConfig, sys::StepKind::kRequest},
       {"plan its layers", &PullJob::PlanLayers},
       {"check the disk's space", &PullJob::CheckSpace},
       {"make its layers", &PullJob::MakeLayers, sys::StepKind::kRequest},
       {"keep its layers' blobs", &PullJob::KeepMissingBlobs, sys::StepKind::kRequest},
       {"keep its documents", &PullJob::HoldDocuments},
       {"complete its record", &PullJob::CompleteRecord},
       {"sync the store", &PullJob::SyncStore},
       {"commit its record", &PullJob::Commit}});
  return steps;
}

const PullJob::PullOperation& PullJob::ArtifactSteps() {
  static const PullOperation steps(
      "pull artifact", {{"describe it", &PullJob::DescribeArtifact},
                        {"check the disk's space", &PullJob::CheckArtifactSpace},
                        {"fetch its parts", &PullJob::FetchParts, sys::StepKind::kRequest},
                        {"keep its documents", &PullJob::HoldDocuments},
                        {"complete its record", &PullJob::CompleteRecord},
                        {"sync the store", &PullJob::SyncStore},
                        {"commit its record", &PullJob::Commit}});
  return steps;
}

const PullJob::LayerOperation& PullJob::UnpackLayerSteps() {
  static const LayerOperation steps(
      "unpack layer", {{"download and unpack it", &PullJob::UnpackLayer, sys::StepKind::kRequest},
                       {"summarise it", &PullJob::SummariseLayer}});
  return steps;
}

const PullJob::LayerOperation& PullJob::PublishLayerSteps() {
  static const LayerOperation steps("publish layer",
                                    {{"fix it up", &PullJob::FixLayerUp, sys::StepKind::kRequest},
                                     {"move it into the store", &PullJob::MoveLayer}});
  return steps;
}

std::vector<sys::OperationSteps> PullJob::Steps() {
  return {ImageSteps().Names(), ArtifactSteps().Names(), UnpackLayerSteps().Names(),
          PublishLayerSteps().Names()};
}

absl::StatusOr<std::string> PullJob::Run(const std::vector<std::string>& names) {
  BeNice();
  names_ = names;
  const PullOperation& steps = resolved_.manifest.IsImage() ? ImageSteps() : ArtifactSteps();
  DAVIT_RETURN_IF_ERROR(steps.Run(this, options_.faults));
  return record_.id;
}

absl::Status PullJob::FetchConfig() {
  const Descriptor& descriptor = resolved_.manifest.config;
  DAVIT_ASSIGN_OR_RETURN(const std::string bytes,
                         client_.FetchSmallBlob(descriptor, kMaxConfigBytes, cancel_));
  DAVIT_ASSIGN_OR_RETURN(const ParsedConfig config, ParseImageConfig(bytes));
  DAVIT_RETURN_IF_ERROR(CheckConfig(config));
  DAVIT_ASSIGN_OR_RETURN(auto hold, store_->blobs().Put(descriptor.digest, bytes));
  holds_.push_back(std::move(hold));

  record_.id = descriptor.digest.ToString();
  record_.manifest_digest = resolved_.manifest_digest.ToString();
  record_.blobs = resolved_.Blobs();
  record_.blobs.push_back({record_.id, descriptor.media_type, descriptor.size, BlobKind::kConfig});
  std::string chain_id;
  for (size_t i = 0; i < config.diff_ids.size(); ++i) {
    auto layer = std::make_unique<Layer>();
    layer->descriptor = resolved_.manifest.layers[i];
    layer->diff_id = config.diff_ids[i];
    chain_id = NextChainId(chain_id, layer->diff_id.ToString());
    layer->chain_id = chain_id;
    layer->lowest = i == 0;
    layers_.push_back(std::move(layer));
  }
  return absl::OkStatus();
}

absl::Status PullJob::CheckConfig(const ParsedConfig& config) const {
  if (config.diff_ids.size() != resolved_.manifest.layers.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the manifest has ", resolved_.manifest.layers.size(),
                     " layers, the image config ", config.diff_ids.size()));
  }
  // Found out now, or else as "exec format error" when a container starts.
  if (!config.platform.architecture.empty() && PlatformRank(options_.host, config.platform) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the image is for ", PlatformName(config.platform), ", this node is ",
                     PlatformName(options_.host)));
  }
  return absl::OkStatus();
}

absl::Status PullJob::PlanLayers() {
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = *layers_[i];
    layer.record = store_->layers().Acquire(layer.diff_id.ToString(), layer.chain_id);
    if (layer.record.has_value()) continue;
    layer.repeated = std::any_of(
        layers_.begin(), layers_.begin() + static_cast<ptrdiff_t>(i), [&layer](const auto& below) {
          return below->diff_id == layer.diff_id && !below->record.has_value();
        });
    if (layer.repeated) continue;
    layer.lead = flights_->Join(layer.chain_id).lead;
    if (layer.lead == nullptr) continue;
    // It may have landed between the two looks.
    layer.record = store_->layers().Acquire(layer.diff_id.ToString(), layer.chain_id);
    if (layer.record.has_value()) layer.lead.reset();
  }
  return absl::OkStatus();
}

absl::Status PullJob::CheckSpace() {
  std::vector<Descriptor> missing;
  for (const auto& layer : layers_) {
    if (layer->lead != nullptr) missing.push_back(layer->descriptor);
  }
  return CheckDiskSpace(store_->layers().root_fd(), missing);
}

absl::Status PullJob::MakeLayers() {
  Workers workers(this);
  for (size_t i = 0; i < layers_.size(); ++i) {
    absl::Status status;
    if (layers_[i]->lead != nullptr) {
      status = workers.Wait(i);
      if (status.ok()) status = PublishLayer(i);
    } else if (!layers_[i]->record.has_value()) {
      status = MakeLayer(i);
    }
    if (status.ok()) continue;
    cancel_.CancelForever();
    return status;
  }
  return absl::OkStatus();
}

// One that was left to another pull, or that repeats one below.
absl::Status PullJob::MakeLayer(size_t index) {
  Layer& layer = *layers_[index];
  for (;;) {
    layer.record = store_->layers().Acquire(layer.diff_id.ToString(), layer.chain_id);
    if (layer.record.has_value()) return absl::OkStatus();
    LayerFlights::Joined joined = flights_->Join(layer.chain_id);
    if (joined.flight != nullptr) {
      if (!joined.flight->WaitUntilLanded(cancel_)) {
        return absl::CancelledError("the pull was cancelled");
      }
      continue;
    }
    // The other pull failed, perhaps for a reason of its own.
    layer.lead = std::move(joined.lead);
    layer.record = store_->layers().Acquire(layer.diff_id.ToString(), layer.chain_id);
    if (!layer.record.has_value()) {
      DAVIT_RETURN_IF_ERROR(DownloadHere(index));
      DAVIT_RETURN_IF_ERROR(PublishLayer(index));
    }
    layer.lead.reset();
    return absl::OkStatus();
  }
}

absl::Status PullJob::DownloadHere(size_t index) {
  if (cancel_.cancelled()) return absl::CancelledError("the pull was cancelled");
  return sys::Annotate(UnpackLayerSteps().Run(this, options_.faults, index),
                       absl::StrCat("layer ", layers_[index]->descriptor.digest.ToString()));
}

absl::Status PullJob::UnpackLayer(size_t index) {
  Layer& layer = *layers_[index];
  DAVIT_ASSIGN_OR_RETURN(
      layer.unpacked, DownloadLayer(store_, client_, layer.descriptor, layer.diff_id, layer.lowest,
                                    options_.layer, cancel_));
  return absl::OkStatus();
}

absl::Status PullJob::SummariseLayer(size_t index) {
  Layer& layer = *layers_[index];
  if (!layer.unpacked->result.fix_ups.empty()) return absl::OkStatus();  // it will change
  DAVIT_ASSIGN_OR_RETURN(layer.summary, SummariseTree(layer.unpacked->dir()));
  return absl::OkStatus();
}

absl::Status PullJob::PublishLayer(size_t index) {
  return sys::Annotate(PublishLayerSteps().Run(this, options_.faults, index),
                       absl::StrCat("layer ", layers_[index]->descriptor.digest.ToString()));
}

absl::Status PullJob::FixLayerUp(size_t index) {
  Layer& layer = *layers_[index];
  const unpack::UnpackResult& result = layer.unpacked->result;
  if (result.fix_ups.empty()) return absl::OkStatus();
  std::vector<sys::UniqueFd> fds;
  std::vector<int> lowers;
  size_t lowest = index;  // what an opaque root hides is not there to take from
  while (lowest > 0 && !(lowest < index && layers_[lowest]->record->opaque_root)) --lowest;
  for (size_t i = lowest; i < index; ++i) {
    DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd fd, store_->layers().OpenLayer(layers_[i]->record->id));
    lowers.push_back(fd.get());
    fds.push_back(std::move(fd));
  }
  DAVIT_RETURN_IF_ERROR(ApplyFixUps(layer.unpacked->dir(), lowers, result.fix_ups));
  DAVIT_ASSIGN_OR_RETURN(layer.summary, SummariseTree(layer.unpacked->dir()));
  return absl::OkStatus();
}

absl::Status PullJob::MoveLayer(size_t index) {
  Layer& layer = *layers_[index];
  const unpack::UnpackResult& result = layer.unpacked->result;
  LayerRecord record;
  record.id = layer.unpacked->id();
  // Whatever took something from below, or left something out because nothing is below, fits this
  // chain only.
  const bool depends = !result.fix_ups.empty() || result.dropped_whiteouts > 0;
  record.key = depends ? absl::StrCat("chain:", layer.chain_id)
                       : absl::StrCat("diff:", layer.diff_id.ToString());
  record.diff_id = layer.diff_id.ToString();
  record.bytes = layer.summary->bytes;
  record.inodes = layer.summary->inodes;
  record.entries = result.entries;
  record.has_root_entry = result.has_root_entry;
  record.opaque_root = result.opaque_root;
  DAVIT_ASSIGN_OR_RETURN(layer.record,
                         store_->layers().Publish(std::move(record), layer.summary->index));
  layer.unpacked->Published();
  layer.summary.reset();
  if (layer.unpacked->blob != nullptr) holds_.push_back(std::move(layer.unpacked->blob));
  layer.unpacked.reset();
  layer.lead.reset();
  return absl::OkStatus();
}

absl::Status PullJob::KeepMissingBlobs() {
  if (!options_.layer.keep_blob) return absl::OkStatus();
  for (const auto& layer : layers_) {
    const Descriptor& descriptor = layer->descriptor;
    if (!store_->blobs().Has(descriptor.digest)) {
      DAVIT_ASSIGN_OR_RETURN(auto hold, DownloadBlob(store_, client_, descriptor, cancel_));
      holds_.push_back(std::move(hold));
    }
    record_.blobs.push_back(
        {descriptor.digest.ToString(), descriptor.media_type, descriptor.size, BlobKind::kLayer});
  }
  return absl::OkStatus();
}

absl::Status PullJob::DescribeArtifact() {
  // All artifacts with an empty config would have one id otherwise.
  record_.id = resolved_.manifest_digest.ToString();
  record_.manifest_digest = record_.id;
  record_.artifact = true;
  record_.blobs = resolved_.Blobs();
  return absl::OkStatus();
}

absl::Status PullJob::CheckArtifactSpace() {
  return CheckDiskSpace(store_->layers().root_fd(), resolved_.manifest.layers);
}

absl::Status PullJob::FetchParts() {
  std::vector<Descriptor> parts = resolved_.manifest.layers;
  parts.push_back(resolved_.manifest.config);
  for (const Descriptor& part : parts) {
    DAVIT_ASSIGN_OR_RETURN(auto hold, DownloadBlob(store_, client_, part, cancel_));
    holds_.push_back(std::move(hold));
    record_.blobs.push_back({part.digest.ToString(), part.media_type, part.size, BlobKind::kLayer});
  }
  return absl::OkStatus();
}

absl::Status PullJob::HoldDocuments() {
  for (const PulledDocument& document : resolved_.documents) {
    DAVIT_ASSIGN_OR_RETURN(auto hold, store_->blobs().Put(document.digest, document.bytes));
    holds_.push_back(std::move(hold));
  }
  return absl::OkStatus();
}

absl::Status PullJob::CompleteRecord() {
  if (cancel_.cancelled()) return absl::CancelledError("the pull was cancelled");
  // A layer may occur twice; the file does not.
  std::sort(record_.blobs.begin(), record_.blobs.end(),
            [](const BlobRecord& a, const BlobRecord& b) { return a.digest < b.digest; });
  record_.blobs.erase(
      std::unique(record_.blobs.begin(), record_.blobs.end(),
                  [](const BlobRecord& a, const BlobRecord& b) { return a.digest == b.digest; }),
      record_.blobs.end());
  for (const BlobRecord& blob : record_.blobs) record_.size += blob.size;
  for (const auto& layer : layers_) {
    record_.layers.push_back(layer->record->id);
    record_.size += layer->record->bytes;
  }
  record_.names = names_;
  return absl::OkStatus();
}

absl::Status PullJob::SyncStore() { return store_->Sync(); }

absl::Status PullJob::Commit() { return store_->Commit(record_); }

}  // namespace davit::images
