#include "images/store/layer_pins.h"

#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "images/store/image_store.h"

namespace davit::images {
namespace {

class StorePin : public LayerPin {
 public:
  explicit StorePin(ImageStore* store) : store_(store) {}
  ~StorePin() override {
    for (const int64_t id : ids_) store_->layers().Unpin(id);
    if (!ids_.empty()) store_->WakeJanitor();
  }

  absl::Status Add(int64_t id) {
    if (!store_->layers().Pin(id)) {
      return absl::NotFoundError(absl::StrCat("layer ", id, " is not there"));
    }
    ids_.push_back(id);
    return absl::OkStatus();
  }

  // The layers are all there: work out the paths.
  void Finish() {
    // overlayfs refuses to stack a directory twice, and images do repeat layers (empty ones above
    // all): the topmost occurrence shows and hides all that the lower ones would.
    std::set<int64_t> seen;
    bool hidden = false;
    for (auto it = ids_.rbegin(); it != ids_.rend(); ++it) {
      const std::string path = store_->layers().Path(*it);
      const auto record = store_->layers().Find(*it);
      if (!hidden && seen.insert(*it).second) lower_dirs_.push_back(path);
      if (!record.has_value()) continue;
      if (root_dir_.empty() && record->has_root_entry) root_dir_ = path;
      hidden = hidden || record->opaque_root;
    }
    // overlayfs wants a lower directory even for an image that has none.
    if (lower_dirs_.empty()) lower_dirs_.push_back(store_->layers().Path(0));
    if (root_dir_.empty()) root_dir_ = lower_dirs_.back();
  }

  const std::vector<std::string>& lower_dirs() const override { return lower_dirs_; }
  const std::string& root_dir() const override { return root_dir_; }

 private:
  ImageStore* const store_;
  std::vector<int64_t> ids_;
  std::vector<std::string> lower_dirs_;
  std::string root_dir_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LayerPin>> MakeLayerPin(ImageStore* store,
                                                       const std::vector<int64_t>& ids) {
  auto pin = std::make_unique<StorePin>(store);
  for (const int64_t id : ids) {
    if (const absl::Status status = pin->Add(id); !status.ok()) return status;
  }
  pin->Finish();
  return pin;
}

}  // namespace davit::images
