#ifndef DAVIT_SANDBOX_TESTING_NODE_H_
#define DAVIT_SANDBOX_TESTING_NODE_H_

#include <sys/types.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "images/image_service.h"
#include "runtime/sys/mutex.h"
#include "sandbox/manager.h"

// For tests and benchmarks of the manager: a small node with directories, cgroups and an image of
// its own, on the real kernel and with the real davit-pod.
namespace davit::sandbox::testing {

// One image, "busybox": a directory with a static busybox.
class FakeImages : public images::ImageService {
 public:
  explicit FakeImages(std::string rootfs) : rootfs_(std::move(rootfs)) {}

  std::unique_ptr<images::PullTicket> Pull(images::PullRequest, PullCallback) override;
  std::shared_ptr<const images::Image> Find(absl::string_view) const override { return nullptr; }
  std::vector<std::shared_ptr<const images::Image>> List() const override { return {}; }
  absl::Status Remove(absl::string_view) override { return absl::OkStatus(); }
  absl::StatusOr<std::unique_ptr<images::LayerPin>> PinLayers(absl::string_view id) override;
  absl::StatusOr<std::unique_ptr<images::LayerPin>> RepinLayers(
      const std::vector<std::string>& lower_dirs) override;
  void StartGarbageCollection() override { collecting_ = true; }
  images::FsUsage Usage() const override { return {}; }
  void SetRegistries(std::map<std::string, images::RegistryOptions>) override {}

  int pins() const { return *pins_; }
  bool collecting() const { return collecting_; }

 private:
  const std::string rootfs_;
  std::shared_ptr<std::atomic<int>> pins_ = std::make_shared<std::atomic<int>>(0);
  bool collecting_ = false;
};

class TextMetadata : public Metadata {
 public:
  explicit TextMetadata(std::string text) : text_(std::move(text)) {}
  std::string Serialize() const override { return text_; }

 private:
  const std::string text_;
};

class Node {
 public:
  // Directories below a fresh temporary one. `davit_pod` and `davit_init` are the programs' paths.
  Node(std::string davit_pod, std::string davit_init);
  // Ends the manager and removes the directories and cgroups.
  ~Node();

  // Starts a manager on the node's directories, ending the one before; as a daemon's restart.
  absl::Status Restart();
  void StopManager() { manager_.reset(); }
  Manager* operator->() const { return manager_.get(); }

  ManagerOptions& options() { return options_; }
  FakeImages& images() { return *images_; }
  const std::string& root() const { return root_; }

  // Calls that end, waited for.
  absl::Status StopPod(const std::string& id);
  absl::Status RemovePod(const std::string& id);
  absl::Status StopContainer(const std::string& id, absl::Duration timeout);
  absl::Status RemoveContainer(const std::string& id);
  absl::StatusOr<ExecResult> Exec(const std::string& container, std::vector<std::string> command,
                                  absl::Duration timeout = absl::InfiniteDuration(),
                                  size_t limit = 0);

  // Specs that work. Names are made of `name`.
  PodSpec HostPod(const std::string& name) const;
  PodSpec NetworkPod(const std::string& name) const;
  ContainerSpec Container(const std::string& pod, const std::string& name,
                          std::vector<std::string> command) const;
  // Creates and starts it.
  absl::StatusOr<std::string> Run(ContainerSpec spec);
  // Waits for the container to have exited; returns its view.
  std::shared_ptr<const ContainerView> AwaitExit(const std::string& id);
  // Waits until `condition` holds, at most 20 s.
  static bool Await(const std::function<bool()>& condition);

  // A CNI configuration whose only plugin is this shell script; it is given the command in
  // $CNI_COMMAND. Every command is also appended to <root>/cni.log.
  void InstallPlugin(const std::string& script);
  std::string PluginLog() const;

  // What the node's pods hold of the machine: mounts, cgroups, namespaces' bindings, processes,
  // files below the state directory, descriptors of this process.
  std::map<std::string, int> Census() const;
  // What there is more of than there was.
  std::map<std::string, int> More(const std::map<std::string, int>& before) const;

  std::vector<std::string> reports() const;

 private:
  void RemoveGroups();

  std::string root_;
  std::unique_ptr<FakeImages> images_;
  ManagerOptions options_;
  mutable sys::Mutex mutex_;
  std::vector<std::string> reports_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<Manager> manager_;
};

}  // namespace davit::sandbox::testing

#endif  // DAVIT_SANDBOX_TESTING_NODE_H_
