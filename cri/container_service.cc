#include "cri/container_service.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "cri/create_container.h"
#include "cri/find.h"
#include "cri/metadata.h"
#include "cri/resources.h"
#include "cri/status.h"
#include "cri/verbose_info.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using Runs = Method::Runs;

// The client's message limit is 16 MiB for both streams and what frames them.
constexpr size_t kMaxExecOutput = (16 << 20) - (64 << 10);
constexpr int kStreamChunk = 256;

absl::Status ContainerStatus(const sandbox::Manager& manager,
                             const v1::ContainerStatusRequest& request,
                             v1::ContainerStatusResponse* out) {
  DAVIT_ASSIGN_OR_RETURN(const auto view, FindContainer(manager, request.container_id()));
  ToContainerStatus(*view, out->mutable_status());
  if (request.verbose()) (*out->mutable_info())["info"] = ContainerInfo(*view);
  return absl::OkStatus();
}

std::vector<v1::StreamContainersResponse> StreamContainers(const sandbox::Manager& manager,
                                                           const v1::ContainerFilter& filter) {
  std::vector<v1::StreamContainersResponse> messages;
  for (const auto& view : manager.ListContainers()) {
    if (!Matches(filter, *view)) continue;
    if (messages.empty() || messages.back().containers_size() >= kStreamChunk) {
      messages.emplace_back();
    }
    ToContainer(*view, messages.back().add_containers());
  }
  return messages;
}

// The manager changes all limits or none, and keeps the new configuration only if it did.
absl::Status UpdateResources(sandbox::Manager* manager, const Node& node,
                             const v1::UpdateContainerResourcesRequest& request) {
  DAVIT_ASSIGN_OR_RETURN(const auto view, FindContainer(*manager, request.container_id()));
  const ContainerMetadata& old = ContainerMetadata::Of(*view);
  v1::LinuxContainerResources update = request.linux();
  DAVIT_ASSIGN_OR_RETURN(const int oom_score_adj,
                         TranslateOomScoreAdj(update.oom_score_adj(), node.oom_score_adj_floor));
  if (update.oom_score_adj() != 0) update.set_oom_score_adj(oom_score_adj);
  DAVIT_ASSIGN_OR_RETURN(const runtime::spec::LinuxResources resources, TranslateResources(update));
  v1::ContainerConfig config = old.config();
  MergeResources(update, config.mutable_linux()->mutable_resources());
  return manager->UpdateResources(
      view->id, resources,
      std::make_shared<const ContainerMetadata>(std::move(config), old.user()));
}

void ExecSync(sandbox::Manager* manager, const v1::ExecSyncRequest& request,
              Done<v1::ExecSyncResponse> done) {
  const auto view = FindContainer(*manager, request.container_id());
  if (!view.ok()) return done(view.status());
  if (request.cmd().empty() || request.cmd(0).empty()) {
    return done(absl::InvalidArgumentError("cmd: is missing"));
  }
  if (request.timeout() < 0) {
    return done(absl::InvalidArgumentError("timeout: must not be negative"));
  }
  sandbox::ExecSpec exec;
  exec.container_id = (*view)->id;
  exec.command = {request.cmd().begin(), request.cmd().end()};
  if (request.timeout() > 0) exec.timeout = absl::Seconds(request.timeout());
  exec.output_limit = kMaxExecOutput;
  manager->ExecSync(std::move(exec),
                    [done = std::move(done)](absl::StatusOr<sandbox::ExecResult> result) {
                      if (!result.ok()) return done(result.status());
                      v1::ExecSyncResponse response;
                      *response.mutable_stdout() = std::move(result->out);
                      *response.mutable_stderr() = std::move(result->err);
                      response.set_exit_code(result->exit_code);
                      done(std::move(response));
                    });
}

// A container's life, in the order of its calls.
void AddLifeMethods(sandbox::Manager* manager, images::ImageService* images,
                    const std::shared_ptr<const Node>& node, std::vector<Method>* methods) {
  methods->push_back(Unary<v1::CreateContainerRequest, v1::CreateContainerResponse>(
      "/runtime.v1.RuntimeService/CreateContainer", Runs::kOnWorker, true,
      [manager, images, node](const auto& request, auto* out) -> absl::Status {
        DAVIT_ASSIGN_OR_RETURN(*out->mutable_container_id(),
                               CreateContainer(manager, images, *node, request));
        return absl::OkStatus();
      }));
  methods->push_back(Unary<v1::StartContainerRequest, v1::StartContainerResponse>(
      "/runtime.v1.RuntimeService/StartContainer", Runs::kOnWorker, true,
      [manager](const auto& request, auto*) -> absl::Status {
        DAVIT_ASSIGN_OR_RETURN(const auto view, FindContainer(*manager, request.container_id()));
        return manager->StartContainer(view->id);
      }));
  methods->push_back(UnaryLater<v1::StopContainerRequest, v1::StopContainerResponse>(
      "/runtime.v1.RuntimeService/StopContainer", true,
      [manager](const CallPtr&, const auto& request, Done<v1::StopContainerResponse> done) {
        const absl::Duration timeout = absl::Seconds(std::max<int64_t>(request.timeout(), 0));
        WithKnownContainer(
            *manager, request.container_id(), std::move(done),
            [manager, timeout](const std::string& id, sandbox::DoneCallback stopped) {
              manager->StopContainer(id, timeout, std::move(stopped));
            });
      }));
  methods->push_back(UnaryLater<v1::RemoveContainerRequest, v1::RemoveContainerResponse>(
      "/runtime.v1.RuntimeService/RemoveContainer", true,
      [manager](const CallPtr&, const auto& request, Done<v1::RemoveContainerResponse> done) {
        WithKnownContainer(*manager, request.container_id(), std::move(done),
                           [manager](const std::string& id, sandbox::DoneCallback removed) {
                             manager->RemoveContainer(id, std::move(removed));
                           });
      }));
}

void AddQueryMethods(sandbox::Manager* manager, std::vector<Method>* methods) {
  methods->push_back(Unary<v1::ListContainersRequest, v1::ListContainersResponse>(
      "/runtime.v1.RuntimeService/ListContainers", Runs::kInline, false,
      [manager](const auto& request, auto* out) {
        for (const auto& view : manager->ListContainers()) {
          if (Matches(request.filter(), *view)) ToContainer(*view, out->add_containers());
        }
        return absl::OkStatus();
      }));
  methods->push_back(ListStream<v1::StreamContainersRequest, v1::StreamContainersResponse>(
      "/runtime.v1.RuntimeService/StreamContainers", Runs::kInline,
      [manager](const auto& request) { return StreamContainers(*manager, request.filter()); }));
  methods->push_back(Unary<v1::ContainerStatusRequest, v1::ContainerStatusResponse>(
      "/runtime.v1.RuntimeService/ContainerStatus", Runs::kInline, false,
      [manager](const auto& request, auto* out) {
        return ContainerStatus(*manager, request, out);
      }));
}

// What is done with a container while it runs.
void AddUseMethods(sandbox::Manager* manager, const std::shared_ptr<const Node>& node,
                   std::vector<Method>* methods) {
  methods->push_back(
      Unary<v1::UpdateContainerResourcesRequest, v1::UpdateContainerResourcesResponse>(
          "/runtime.v1.RuntimeService/UpdateContainerResources", Runs::kOnWorker, true,
          [manager, node](const auto& request, auto*) {
            return UpdateResources(manager, *node, request);
          }));
  methods->push_back(Unary<v1::ReopenContainerLogRequest, v1::ReopenContainerLogResponse>(
      "/runtime.v1.RuntimeService/ReopenContainerLog", Runs::kOnWorker, true,
      [manager](const auto& request, auto*) -> absl::Status {
        DAVIT_ASSIGN_OR_RETURN(const auto view, FindContainer(*manager, request.container_id()));
        return manager->ReopenLog(view->id);
      }));
  methods->push_back(UnaryLater<v1::ExecSyncRequest, v1::ExecSyncResponse>(
      "/runtime.v1.RuntimeService/ExecSync", false,
      [manager](const CallPtr&, const auto& request, Done<v1::ExecSyncResponse> done) {
        ExecSync(manager, request, std::move(done));
      }));
}

}  // namespace

std::vector<Method> ContainerMethods(sandbox::Manager* manager, images::ImageService* images,
                                     Node node) {
  const auto shared_node = std::make_shared<const Node>(std::move(node));
  std::vector<Method> methods;
  AddLifeMethods(manager, images, shared_node, &methods);
  AddQueryMethods(manager, &methods);
  AddUseMethods(manager, shared_node, &methods);
  return methods;
}

}  // namespace davit::cri
