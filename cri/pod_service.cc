#include "cri/pod_service.h"

#include <utility>

#include "absl/time/clock.h"
#include "cri/find.h"
#include "cri/status.h"
#include "cri/verbose_info.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using Runs = Method::Runs;

absl::Status RunPodSandbox(sandbox::Manager* manager, const PodOptions& options,
                           const v1::RunPodSandboxRequest& request,
                           v1::RunPodSandboxResponse* out) {
  DAVIT_ASSIGN_OR_RETURN(sandbox::PodSpec spec,
                         TranslatePod(request.config(), request.runtime_handler(), options));
  DAVIT_ASSIGN_OR_RETURN(*out->mutable_pod_sandbox_id(), manager->RunPod(std::move(spec)));
  return absl::OkStatus();
}

absl::Status PodSandboxStatus(const sandbox::Manager& manager,
                              const v1::PodSandboxStatusRequest& request,
                              v1::PodSandboxStatusResponse* out) {
  DAVIT_ASSIGN_OR_RETURN(const auto view, FindPod(manager, request.pod_sandbox_id()));
  ToPodSandboxStatus(*view, out->mutable_status());
  for (const auto& container : manager.ListContainers()) {
    if (container->pod_id == view->id)
      ToContainerStatus(*container, out->add_containers_statuses());
  }
  out->set_timestamp(absl::GetCurrentTimeNanos());
  if (request.verbose()) (*out->mutable_info())["info"] = PodInfo(*view);
  return absl::OkStatus();
}

// Items a message of the streamed list: few enough for any message limit.
constexpr int kStreamChunk = 256;

std::vector<v1::StreamPodSandboxesResponse> StreamPods(const sandbox::Manager& manager,
                                                       const v1::PodSandboxFilter& filter) {
  std::vector<v1::StreamPodSandboxesResponse> messages;
  for (const auto& view : manager.ListPods()) {
    if (!Matches(filter, *view)) continue;
    if (messages.empty() || messages.back().pod_sandboxes_size() >= kStreamChunk) {
      messages.emplace_back();
    }
    ToPodSandbox(*view, messages.back().add_pod_sandboxes());
  }
  return messages;
}

}  // namespace

std::vector<Method> PodMethods(sandbox::Manager* manager, PodOptions options) {
  std::vector<Method> methods;
  methods.push_back(Unary<v1::RunPodSandboxRequest, v1::RunPodSandboxResponse>(
      "/runtime.v1.RuntimeService/RunPodSandbox", Runs::kOnWorker, true,
      [manager, options](const auto& request, auto* out) {
        return RunPodSandbox(manager, options, request, out);
      }));
  methods.push_back(UnaryLater<v1::StopPodSandboxRequest, v1::StopPodSandboxResponse>(
      "/runtime.v1.RuntimeService/StopPodSandbox", true,
      [manager](const CallPtr&, const auto& request, Done<v1::StopPodSandboxResponse> done) {
        WithKnownPod(*manager, request.pod_sandbox_id(), std::move(done),
                     [manager](const std::string& id, sandbox::DoneCallback stopped) {
                       manager->StopPod(id, std::move(stopped));
                     });
      }));
  methods.push_back(UnaryLater<v1::RemovePodSandboxRequest, v1::RemovePodSandboxResponse>(
      "/runtime.v1.RuntimeService/RemovePodSandbox", true,
      [manager](const CallPtr&, const auto& request, Done<v1::RemovePodSandboxResponse> done) {
        WithKnownPod(*manager, request.pod_sandbox_id(), std::move(done),
                     [manager](const std::string& id, sandbox::DoneCallback removed) {
                       manager->RemovePod(id, std::move(removed));
                     });
      }));
  methods.push_back(Unary<v1::PodSandboxStatusRequest, v1::PodSandboxStatusResponse>(
      "/runtime.v1.RuntimeService/PodSandboxStatus", Runs::kInline, false,
      [manager](const auto& request, auto* out) {
        return PodSandboxStatus(*manager, request, out);
      }));
  methods.push_back(Unary<v1::ListPodSandboxRequest, v1::ListPodSandboxResponse>(
      "/runtime.v1.RuntimeService/ListPodSandbox", Runs::kInline, false,
      [manager](const auto& request, auto* out) {
        for (const auto& view : manager->ListPods()) {
          if (Matches(request.filter(), *view)) ToPodSandbox(*view, out->add_items());
        }
        return absl::OkStatus();
      }));
  methods.push_back(ListStream<v1::StreamPodSandboxesRequest, v1::StreamPodSandboxesResponse>(
      "/runtime.v1.RuntimeService/StreamPodSandboxes", Runs::kInline,
      [manager](const auto& request) { return StreamPods(*manager, request.filter()); }));
  return methods;
}

}  // namespace davit::cri
