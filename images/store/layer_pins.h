#ifndef DAVIT_IMAGES_STORE_LAYER_PINS_H_
#define DAVIT_IMAGES_STORE_LAYER_PINS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "images/image_service.h"

namespace davit::images {

class ImageStore;

// Pins layers, bottom first, for a LayerPin whose destruction unpins them and wakes the store's
// janitor. NotFound if one is not there. `store` must outlive it.
absl::StatusOr<std::unique_ptr<LayerPin>> MakeLayerPin(ImageStore* store,
                                                       const std::vector<int64_t>& ids);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_LAYER_PINS_H_
