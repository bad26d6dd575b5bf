#include "cri/fakes.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace davit::cri {
namespace {

using sandbox::ContainerState;
using sandbox::ContainerView;
using sandbox::PodState;
using sandbox::PodView;

template <typename View>
absl::StatusOr<std::shared_ptr<const View>> Find(
    const std::map<std::string, std::shared_ptr<const View>>& all, absl::string_view id) {
  std::shared_ptr<const View> found;
  for (const auto& [full, view] : all) {
    if (!absl::StartsWith(full, id)) continue;
    if (found != nullptr) return absl::InvalidArgumentError("ambiguous id");
    found = view;
  }
  if (found == nullptr) return absl::NotFoundError(absl::StrCat("no such id: ", id));
  return found;
}

}  // namespace

absl::StatusOr<std::string> FakeManager::RunPod(sandbox::PodSpec spec) {
  sys::MutexLock lock(&mutex_);
  if (!keys_.insert(spec.name_key).second) {
    return absl::AlreadyExistsError(absl::StrCat("name \"", spec.name_key, "\" is reserved"));
  }
  auto view = std::make_shared<PodView>();
  view->id = absl::StrCat("pod", next_++, "00000000");
  view->state = PodState::kReady;
  view->created_at = 1000;
  view->pid = 77;
  view->ips = {"10.1.0.2", "fd00::2"};
  view->netns_path = "/run/netns/davit-x";
  view->cni_result = R"({"cniVersion":"1.0.0"})";
  view->hosts_path = "/pod/hosts";
  view->runtime_handler = spec.runtime_handler;
  view->metadata = spec.metadata;
  view->spec = std::move(spec);
  const std::string id = view->id;
  pods_[id] = view;
  return id;
}

void FakeManager::StopPod(const std::string& id, sandbox::DoneCallback done) {
  {
    sys::MutexLock lock(&mutex_);
    if (pods_.count(id) > 0) {
      auto view = std::make_shared<PodView>(*pods_[id]);
      view->state = PodState::kNotReady;
      pods_[id] = view;
    }
  }
  done(absl::OkStatus());
}

void FakeManager::RemovePod(const std::string& id, sandbox::DoneCallback done) {
  {
    sys::MutexLock lock(&mutex_);
    if (pods_.count(id) > 0) keys_.erase(pods_[id]->spec.name_key);
    pods_.erase(id);
    std::erase_if(containers_, [&](const auto& entry) { return entry.second->pod_id == id; });
  }
  done(absl::OkStatus());
}

absl::StatusOr<std::string> FakeManager::CreateContainer(sandbox::ContainerSpec spec) {
  sys::MutexLock lock(&mutex_);
  auto view = std::make_shared<ContainerView>();
  view->id = absl::StrCat("container", next_++, "00000000");
  view->pod_id = spec.pod_id;
  view->image_id = spec.image_id;
  view->state = ContainerState::kCreated;
  view->created_at = 2000;
  view->log_path = spec.log_path;
  view->stop_signal = spec.stop_signal;
  view->metadata = spec.metadata;
  last_container_ = std::move(spec);
  const std::string id = view->id;
  containers_[id] = view;
  return id;
}

absl::Status FakeManager::StartContainer(const std::string& id) {
  sys::MutexLock lock(&mutex_);
  auto view = std::make_shared<ContainerView>(*containers_.at(id));
  if (view->state != ContainerState::kCreated) {
    return absl::FailedPreconditionError("container is not in the created state");
  }
  view->state = ContainerState::kRunning;
  view->started_at = 3000;
  view->pid = 88;
  containers_[id] = view;
  return absl::OkStatus();
}

void FakeManager::StopContainer(const std::string& id, absl::Duration timeout,
                                sandbox::DoneCallback done) {
  {
    sys::MutexLock lock(&mutex_);
    last_stop_timeout_ = timeout;
    auto view = std::make_shared<ContainerView>(*containers_.at(id));
    view->state = ContainerState::kExited;
    view->finished_at = 4000;
    view->exit_code = 143;
    view->reason = "Error";
    containers_[id] = view;
  }
  done(absl::OkStatus());
}

void FakeManager::RemoveContainer(const std::string& id, sandbox::DoneCallback done) {
  {
    sys::MutexLock lock(&mutex_);
    containers_.erase(id);
  }
  done(absl::OkStatus());
}

absl::Status FakeManager::ReopenLog(const std::string&) { return absl::OkStatus(); }

void FakeManager::ExecSync(sandbox::ExecSpec spec,
                           std::function<void(absl::StatusOr<sandbox::ExecResult>)> done) {
  {
    sys::MutexLock lock(&mutex_);
    last_exec_ = std::move(spec);
  }
  done(exec_result);
}

absl::Status FakeManager::UpdateResources(const std::string& id,
                                          const runtime::spec::LinuxResources& resources,
                                          sandbox::MetadataPtr metadata) {
  if (!update_result.ok()) return update_result;
  sys::MutexLock lock(&mutex_);
  last_resources_ = resources;
  auto view = std::make_shared<ContainerView>(*containers_.at(id));
  view->metadata = std::move(metadata);
  containers_[id] = view;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const PodView>> FakeManager::FindPod(absl::string_view id) const {
  sys::MutexLock lock(&mutex_);
  return Find(pods_, id);
}

absl::StatusOr<std::shared_ptr<const ContainerView>> FakeManager::FindContainer(
    absl::string_view id) const {
  sys::MutexLock lock(&mutex_);
  return Find(containers_, id);
}

std::vector<std::shared_ptr<const PodView>> FakeManager::ListPods() const {
  sys::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<const PodView>> list;
  for (const auto& [id, view] : pods_) list.push_back(view);
  return list;
}

std::vector<std::shared_ptr<const ContainerView>> FakeManager::ListContainers() const {
  sys::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<const ContainerView>> list;
  for (const auto& [id, view] : containers_) list.push_back(view);
  return list;
}

sandbox::ContainerSpec FakeManager::last_container() const {
  sys::MutexLock lock(&mutex_);
  return last_container_;
}
sandbox::ExecSpec FakeManager::last_exec() const {
  sys::MutexLock lock(&mutex_);
  return last_exec_;
}
runtime::spec::LinuxResources FakeManager::last_resources() const {
  sys::MutexLock lock(&mutex_);
  return last_resources_;
}
absl::Duration FakeManager::last_stop_timeout() const {
  sys::MutexLock lock(&mutex_);
  return last_stop_timeout_;
}

namespace {

class FakePin final : public images::LayerPin {
 public:
  explicit FakePin(std::vector<std::string> dirs) : dirs_(std::move(dirs)) {}
  const std::vector<std::string>& lower_dirs() const override { return dirs_; }

 private:
  const std::vector<std::string> dirs_;
};

// Calls back when it is cancelled, if ever.
class FakeTicket final : public images::PullTicket {
 public:
  FakeTicket(images::ImageService::PullCallback callback, absl::Notification* cancelled)
      : callback_(std::move(callback)), cancelled_(cancelled) {}
  void Cancel() override {
    if (callback_ == nullptr) return;
    auto callback = std::move(callback_);
    callback_ = nullptr;
    cancelled_->Notify();
    callback(absl::CancelledError("cancelled"));
  }

 private:
  images::ImageService::PullCallback callback_;
  absl::Notification* const cancelled_;
};

}  // namespace

FakeImages::~FakeImages() = default;

void FakeImages::Add(images::Image image) {
  sys::MutexLock lock(&mutex_);
  images_.push_back(std::make_shared<const images::Image>(std::move(image)));
}

std::unique_ptr<images::PullTicket> FakeImages::Pull(images::PullRequest request,
                                                     PullCallback callback) {
  const std::string reference = request.reference;
  {
    sys::MutexLock lock(&mutex_);
    last_pull_ = std::move(request);
  }
  if (reference == "hang") {
    return std::make_unique<FakeTicket>(std::move(callback), &pull_cancelled);
  }
  if (reference == "down") {
    callback(absl::UnavailableError("RegistryUnavailable: connection refused"));
  } else if (reference == "missing") {
    callback(absl::NotFoundError("no such image"));
  } else {
    images::Image image;
    image.id = "sha256:" + std::string(64, 'b');
    image.repo_tags = {reference};
    image.size = 1;
    Add(std::move(image));
    callback("sha256:" + std::string(64, 'b'));
  }
  return std::make_unique<FakeTicket>(nullptr, &pull_cancelled);
}

std::shared_ptr<const images::Image> FakeImages::Find(absl::string_view reference) const {
  sys::MutexLock lock(&mutex_);
  for (const auto& image : images_) {
    const auto& tags = image->repo_tags;
    if (image->id == reference || std::find(tags.begin(), tags.end(), reference) != tags.end()) {
      return image;
    }
  }
  return nullptr;
}

std::vector<std::shared_ptr<const images::Image>> FakeImages::List() const {
  sys::MutexLock lock(&mutex_);
  return images_;
}

absl::Status FakeImages::Remove(absl::string_view reference) {
  const auto image = Find(reference);
  sys::MutexLock lock(&mutex_);
  std::erase(images_, image);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<images::LayerPin>> FakeImages::PinLayers(absl::string_view) {
  return std::make_unique<FakePin>(layers_);
}

absl::StatusOr<std::unique_ptr<images::LayerPin>> FakeImages::RepinLayers(
    const std::vector<std::string>& lower_dirs) {
  return std::make_unique<FakePin>(lower_dirs);
}

images::PullRequest FakeImages::last_pull() const {
  sys::MutexLock lock(&mutex_);
  return last_pull_;
}

}  // namespace davit::cri
