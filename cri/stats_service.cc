#include "cri/stats_service.h"

#include <fcntl.h>

#include <memory>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "cri/directory_usage.h"
#include "cri/find.h"
#include "cri/metadata.h"
#include "cri/stats.h"
#include "proto/api.pb.h"
#include "runtime/cgroup/stats.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using Runs = Method::Runs;
using sandbox::ContainerView;
using sandbox::PodView;

constexpr absl::Duration kLayerAge = absl::Seconds(10);
constexpr size_t kMaxNetDev = 1 << 20;
constexpr int kStreamChunk = 64;

template <typename Labels, typename Selector>
bool HasLabels(const Labels& labels, const Selector& selector) {
  for (const auto& [key, value] : selector) {
    const auto found = labels.find(key);
    if (found == labels.end() || found->second != value) return false;
  }
  return true;
}

class StatsReader {
 public:
  StatsReader(sandbox::Manager* manager, runtime::cgroup::Layout layout, std::string filesystem)
      : manager_(manager),
        layout_(std::move(layout)),
        filesystem_(std::move(filesystem)),
        layers_(kLayerAge) {}

  absl::StatusOr<std::shared_ptr<const ContainerView>> Container(const std::string& id) const {
    return FindContainer(*manager_, id);
  }
  absl::StatusOr<std::shared_ptr<const PodView>> Pod(const std::string& id) const {
    return FindPod(*manager_, id);
  }

  std::vector<std::shared_ptr<const ContainerView>> Running(
      const v1::ContainerStatsFilter& filter) const {
    std::vector<std::shared_ptr<const ContainerView>> running;
    for (auto& view : manager_->ListContainers()) {
      if (view->state != sandbox::ContainerState::kRunning) continue;
      if (!absl::StartsWith(view->id, filter.id())) continue;
      if (!absl::StartsWith(view->pod_id, filter.pod_sandbox_id())) continue;
      const auto& labels = ContainerMetadata::Of(*view).config().labels();
      if (HasLabels(labels, filter.label_selector())) running.push_back(std::move(view));
    }
    return running;
  }

  std::vector<std::shared_ptr<const PodView>> Ready(const v1::PodSandboxStatsFilter& filter) const {
    std::vector<std::shared_ptr<const PodView>> ready;
    for (auto& view : manager_->ListPods()) {
      if (view->state != sandbox::PodState::kReady) continue;
      if (!absl::StartsWith(view->id, filter.id())) continue;
      const auto& labels = PodMetadata::Of(*view).config().labels();
      if (HasLabels(labels, filter.label_selector())) ready.push_back(std::move(view));
    }
    return ready;
  }

  // A container that has just ended has no group any more: it keeps what can still be told.
  void Fill(const ContainerView& view, v1::ContainerStats* out) {
    const v1::ContainerConfig& config = ContainerMetadata::Of(view).config();
    v1::ContainerAttributes* attributes = out->mutable_attributes();
    attributes->set_id(view.id);
    *attributes->mutable_metadata() = config.metadata();
    *attributes->mutable_labels() = config.labels();
    *attributes->mutable_annotations() = config.annotations();
    FillLayer(view, out->mutable_writable_layer());
    const auto stats = runtime::cgroup::ReadStats(layout_, view.cgroup_path);
    if (!stats.ok()) return;
    ToCpuUsage(*stats, Rate(view.id, *stats), out->mutable_cpu());
    ToMemoryUsage(*stats, out->mutable_memory());
    ToSwapUsage(*stats, out->mutable_swap());
    ToIoUsage(*stats, out->mutable_io());
  }

  void Fill(const PodView& view, v1::PodSandboxStats* out) {
    const v1::PodSandboxConfig& config = PodMetadata::Of(view).config();
    v1::PodSandboxAttributes* attributes = out->mutable_attributes();
    attributes->set_id(view.id);
    *attributes->mutable_metadata() = config.metadata();
    *attributes->mutable_labels() = config.labels();
    *attributes->mutable_annotations() = config.annotations();
    v1::LinuxPodSandboxStats* linux_stats = out->mutable_linux();
    v1::ContainerStatsFilter mine;
    mine.set_pod_sandbox_id(view.id);
    for (const auto& container : Running(mine)) Fill(*container, linux_stats->add_containers());
    FillNetwork(view, linux_stats);
    const auto stats = runtime::cgroup::ReadStats(layout_, view.cgroup_path);
    if (!stats.ok()) return;
    ToCpuUsage(*stats, Rate(view.id, *stats), linux_stats->mutable_cpu());
    ToMemoryUsage(*stats, linux_stats->mutable_memory());
    ToIoUsage(*stats, linux_stats->mutable_io());
    if (stats->pids) {
      linux_stats->mutable_process()->set_timestamp(stats->timestamp_ns);
      linux_stats->mutable_process()->mutable_process_count()->set_value(stats->pids->current);
    }
  }

  // Forgets samples of what has been removed: called with each list.
  void Prune() {
    std::set<std::string> ids;
    std::set<std::string> layers;
    for (const auto& view : manager_->ListPods()) ids.insert(view->id);
    for (const auto& view : manager_->ListContainers()) {
      ids.insert(view->id);
      layers.insert(view->upper_dir);
    }
    rates_.Keep(ids);
    layers_.Keep(layers);
  }

 private:
  std::optional<uint64_t> Rate(const std::string& id, const runtime::cgroup::Stats& stats) {
    if (!stats.cpu) return std::nullopt;
    return rates_.Add(id, stats.timestamp_ns, stats.cpu->usage_ns);
  }

  void FillLayer(const ContainerView& view, v1::FilesystemUsage* out) {
    out->set_timestamp(absl::GetCurrentTimeNanos());
    out->mutable_fs_id()->set_mountpoint(filesystem_);
    const DirectoryUsage usage =
        view.upper_dir.empty() ? DirectoryUsage() : layers_.Get(view.upper_dir);
    out->mutable_used_bytes()->set_value(usage.bytes);
    out->mutable_inodes_used()->set_value(usage.inodes);
  }

  // The supervisor is a member of the pod's network namespace. On the host's network the counters
  // would be the node's.
  void FillNetwork(const PodView& view, v1::LinuxPodSandboxStats* out) {
    if (view.spec.network == sandbox::NamespaceMode::kNode || view.pid <= 0) return;
    const absl::StatusOr<std::string> text =
        sys::ReadFileAt(AT_FDCWD, absl::StrCat("/proc/", view.pid, "/net/dev"), kMaxNetDev);
    if (text.ok()) {
      ToNetworkUsage(*text, absl::GetCurrentTimeNanos(), out->mutable_network());
    }
  }

  sandbox::Manager* const manager_;
  const runtime::cgroup::Layout layout_;
  const std::string filesystem_;
  CpuRates rates_;
  DirectoryUsageCache layers_;
};

void AddContainerStats(const std::shared_ptr<StatsReader>& reader, std::vector<Method>* methods) {
  methods->push_back(Unary<v1::ContainerStatsRequest, v1::ContainerStatsResponse>(
      "/runtime.v1.RuntimeService/ContainerStats", Runs::kOnWorker, false,
      [reader](const auto& request, auto* out) -> absl::Status {
        DAVIT_ASSIGN_OR_RETURN(const auto view, reader->Container(request.container_id()));
        reader->Fill(*view, out->mutable_stats());
        return absl::OkStatus();
      }));
  methods->push_back(Unary<v1::ListContainerStatsRequest, v1::ListContainerStatsResponse>(
      "/runtime.v1.RuntimeService/ListContainerStats", Runs::kOnWorker, false,
      [reader](const auto& request, auto* out) {
        reader->Prune();
        for (const auto& view : reader->Running(request.filter())) {
          reader->Fill(*view, out->add_stats());
        }
        return absl::OkStatus();
      }));
  methods->push_back(ListStream<v1::StreamContainerStatsRequest, v1::StreamContainerStatsResponse>(
      "/runtime.v1.RuntimeService/StreamContainerStats", Runs::kOnWorker,
      [reader](const auto& request) {
        std::vector<v1::StreamContainerStatsResponse> messages;
        for (const auto& view : reader->Running(request.filter())) {
          if (messages.empty() || messages.back().container_stats_size() >= kStreamChunk) {
            messages.emplace_back();
          }
          reader->Fill(*view, messages.back().add_container_stats());
        }
        return messages;
      }));
}

void AddPodStats(const std::shared_ptr<StatsReader>& reader, std::vector<Method>* methods) {
  methods->push_back(Unary<v1::PodSandboxStatsRequest, v1::PodSandboxStatsResponse>(
      "/runtime.v1.RuntimeService/PodSandboxStats", Runs::kOnWorker, false,
      [reader](const auto& request, auto* out) -> absl::Status {
        DAVIT_ASSIGN_OR_RETURN(const auto view, reader->Pod(request.pod_sandbox_id()));
        reader->Fill(*view, out->mutable_stats());
        return absl::OkStatus();
      }));
  methods->push_back(Unary<v1::ListPodSandboxStatsRequest, v1::ListPodSandboxStatsResponse>(
      "/runtime.v1.RuntimeService/ListPodSandboxStats", Runs::kOnWorker, false,
      [reader](const auto& request, auto* out) {
        reader->Prune();
        for (const auto& view : reader->Ready(request.filter())) {
          reader->Fill(*view, out->add_stats());
        }
        return absl::OkStatus();
      }));
  methods->push_back(
      ListStream<v1::StreamPodSandboxStatsRequest, v1::StreamPodSandboxStatsResponse>(
          "/runtime.v1.RuntimeService/StreamPodSandboxStats", Runs::kOnWorker,
          [reader](const auto& request) {
            std::vector<v1::StreamPodSandboxStatsResponse> messages;
            for (const auto& view : reader->Ready(request.filter())) {
              if (messages.empty() || messages.back().pod_sandbox_stats_size() >= kStreamChunk) {
                messages.emplace_back();
              }
              reader->Fill(*view, messages.back().add_pod_sandbox_stats());
            }
            return messages;
          }));
}

}  // namespace

std::vector<Method> StatsMethods(sandbox::Manager* manager, runtime::cgroup::Layout layout,
                                 std::string filesystem) {
  const auto reader =
      std::make_shared<StatsReader>(manager, std::move(layout), std::move(filesystem));
  std::vector<Method> methods;
  AddContainerStats(reader, &methods);
  AddPodStats(reader, &methods);
  return methods;
}

}  // namespace davit::cri
