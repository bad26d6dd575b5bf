#ifndef DAVIT_CRI_FAKES_H_
#define DAVIT_CRI_FAKES_H_

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "images/image_service.h"
#include "runtime/sys/mutex.h"
#include "sandbox/manager.h"

// Stand-ins for the two layers below, with just enough behaviour for the services' tests: state in
// memory, no processes, no registry. Thread-safe.
namespace davit::cri {

class FakeManager final : public sandbox::Manager {
 public:
  absl::StatusOr<std::string> RunPod(sandbox::PodSpec spec) override;
  void StopPod(const std::string& id, sandbox::DoneCallback done) override;
  void RemovePod(const std::string& id, sandbox::DoneCallback done) override;
  absl::StatusOr<std::string> CreateContainer(sandbox::ContainerSpec spec) override;
  absl::Status StartContainer(const std::string& id) override;
  void StopContainer(const std::string& id, absl::Duration timeout,
                     sandbox::DoneCallback done) override;
  void RemoveContainer(const std::string& id, sandbox::DoneCallback done) override;
  absl::Status ReopenLog(const std::string& id) override;
  void ExecSync(sandbox::ExecSpec spec,
                std::function<void(absl::StatusOr<sandbox::ExecResult>)> done) override;
  absl::Status UpdateResources(const std::string& id,
                               const runtime::spec::LinuxResources& resources,
                               sandbox::MetadataPtr metadata) override;
  absl::StatusOr<std::shared_ptr<const sandbox::PodView>> FindPod(
      absl::string_view id) const override;
  absl::StatusOr<std::shared_ptr<const sandbox::ContainerView>> FindContainer(
      absl::string_view id) const override;
  std::vector<std::shared_ptr<const sandbox::PodView>> ListPods() const override;
  std::vector<std::shared_ptr<const sandbox::ContainerView>> ListContainers() const override;
  void SetUpgradeSupervisors(bool) override {}
  sandbox::NetworkStatus Network() const override { return network; }
  std::string CniConfigJson() const override { return R"({"name":"fake"})"; }
  void Shutdown() override {}

  // Set before the server starts.
  sandbox::NetworkStatus network = {true, "", ""};
  absl::StatusOr<sandbox::ExecResult> exec_result = sandbox::ExecResult{"out", "err", 0};
  absl::Status update_result;

  // The last specs and limits that arrived.
  sandbox::ContainerSpec last_container() const;
  sandbox::ExecSpec last_exec() const;
  runtime::spec::LinuxResources last_resources() const;
  absl::Duration last_stop_timeout() const;

 private:
  mutable sys::Mutex mutex_;
  std::map<std::string, std::shared_ptr<const sandbox::PodView>> pods_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, std::shared_ptr<const sandbox::ContainerView>> containers_
      ABSL_GUARDED_BY(mutex_);
  std::set<std::string> keys_ ABSL_GUARDED_BY(mutex_);
  int next_ ABSL_GUARDED_BY(mutex_) = 1;
  sandbox::ContainerSpec last_container_ ABSL_GUARDED_BY(mutex_);
  sandbox::ExecSpec last_exec_ ABSL_GUARDED_BY(mutex_);
  runtime::spec::LinuxResources last_resources_ ABSL_GUARDED_BY(mutex_);
  absl::Duration last_stop_timeout_ ABSL_GUARDED_BY(mutex_);
};

class FakeImages final : public images::ImageService {
 public:
  // `layers`: what PinLayers gives for every image.
  explicit FakeImages(std::vector<std::string> layers) : layers_(std::move(layers)) {}
  ~FakeImages() override;

  void Add(images::Image image);

  // "hang": ends only when it is cancelled. "down": RegistryUnavailable. "missing": NotFound.
  // Anything else is pulled.
  std::unique_ptr<images::PullTicket> Pull(images::PullRequest request,
                                           PullCallback callback) override;
  std::shared_ptr<const images::Image> Find(absl::string_view reference) const override;
  std::vector<std::shared_ptr<const images::Image>> List() const override;
  absl::Status Remove(absl::string_view reference) override;
  absl::StatusOr<std::unique_ptr<images::LayerPin>> PinLayers(absl::string_view id) override;
  absl::StatusOr<std::unique_ptr<images::LayerPin>> RepinLayers(
      const std::vector<std::string>& lower_dirs) override;
  void StartGarbageCollection() override {}
  images::FsUsage Usage() const override { return {"/var/lib/davit", 1234, 56}; }
  void SetRegistries(std::map<std::string, images::RegistryOptions>) override {}

  images::PullRequest last_pull() const;
  absl::Notification pull_cancelled;

 private:
  const std::vector<std::string> layers_;
  mutable sys::Mutex mutex_;
  std::vector<std::shared_ptr<const images::Image>> images_ ABSL_GUARDED_BY(mutex_);
  images::PullRequest last_pull_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::cri

#endif  // DAVIT_CRI_FAKES_H_
