#include "images/image_service.h"

#include <fcntl.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "images/pull/puller.h"
#include "images/store/image_store.h"
#include "images/unpack/client.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

constexpr size_t kMaxHelperBytes = 256 << 20;

class Service : public ImageService {
 public:
  Service(std::unique_ptr<ImageStore> store, sys::UniqueFd helper, PullerOptions options,
          std::map<std::string, RegistryOptions> registries)
      : helper_(std::move(helper)),
        store_(std::move(store)),
        faults_(options.pull.faults),
        puller_(store_.get(), std::move(options), std::move(registries)) {}

  using RemoveOperation = sys::Operation<Service, const std::string&>;
  static const RemoveOperation& RemoveSteps() {
    static const RemoveOperation steps("remove image", {{"remove its rows", &Service::RemoveRows}});
    return steps;
  }

  std::unique_ptr<PullTicket> Pull(PullRequest request, PullCallback callback) override {
    return puller_.Pull(std::move(request), std::move(callback));
  }
  std::shared_ptr<const Image> Find(absl::string_view reference) const override {
    return store_->Find(reference);
  }
  std::vector<std::shared_ptr<const Image>> List() const override { return store_->List(); }
  absl::Status Remove(absl::string_view reference) override {
    const std::string text(reference);
    return sys::Annotate(RemoveSteps().Run(this, faults_, text),
                         absl::StrCat("remove image ", reference));
  }
  absl::StatusOr<std::unique_ptr<LayerPin>> PinLayers(absl::string_view image_id) override {
    return store_->PinLayers(image_id);
  }
  absl::StatusOr<std::unique_ptr<LayerPin>> RepinLayers(
      const std::vector<std::string>& lower_dirs) override {
    return store_->RepinLayers(lower_dirs);
  }
  void StartGarbageCollection() override { store_->StartGarbageCollection(); }
  FsUsage Usage() const override { return store_->Usage(); }
  void SetRegistries(std::map<std::string, RegistryOptions> registries) override {
    puller_.SetRegistries(std::move(registries));
  }

 private:
  // Its layers and blobs go in the background, and at the latest after the next start.
  absl::Status RemoveRows(const std::string& reference) { return store_->Remove(reference); }

  const sys::UniqueFd helper_;
  const std::unique_ptr<ImageStore> store_;
  sys::Faults* const faults_;
  Puller puller_;  // last: its threads use the others
};

}  // namespace

std::vector<sys::OperationSteps> ImageService::Steps() {
  std::vector<sys::OperationSteps> steps = {Puller::Steps(), Service::RemoveSteps().Names()};
  for (sys::OperationSteps& more : PullJob::Steps()) steps.push_back(std::move(more));
  return steps;
}

absl::StatusOr<std::unique_ptr<ImageService>> ImageService::Open(ImageServiceOptions options) {
  // A copy that nothing can change, whatever happens to the file.
  DAVIT_ASSIGN_OR_RETURN(const std::string helper_bytes,
                         sys::ReadFileAt(AT_FDCWD, options.unpack_helper, kMaxHelperBytes));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd helper, sys::SealedMemfd("davit-unpack", helper_bytes));
  DAVIT_ASSIGN_OR_RETURN(std::unique_ptr<ImageStore> store,
                         ImageStore::Open(options.root, options.pinned));
  PullerOptions puller;
  puller.http.proxy = ProxySettings::FromEnvironment();
  puller.http.stall_timeout = options.stall_timeout;
  puller.pull.max_parallel_layers = options.max_parallel_layers;
  puller.pull.faults = options.faults;
  puller.pull.layer.unpacker = &unpack::StartUnpackProcess;
  puller.pull.layer.helper_fd = helper.get();
  puller.pull.layer.stall_timeout = options.stall_timeout;
  puller.pull.layer.keep_blob = options.keep_layer_blobs;
  return std::unique_ptr<ImageService>(std::make_unique<Service>(
      std::move(store), std::move(helper), std::move(puller), std::move(options.registries)));
}

}  // namespace davit::images
