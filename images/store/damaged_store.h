#ifndef DAVIT_IMAGES_STORE_DAMAGED_STORE_H_
#define DAVIT_IMAGES_STORE_DAMAGED_STORE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace davit::images {

// Where a store went whose database cannot be read.
struct DamagedStore {
  std::string path;
  int64_t highest_layer = 0;  // of the numbers that its layers have; 0: it has none
};

// Moves the database, layers, indexes and blobs below `root` to <root>/set-aside/<n>: a person may
// want them, and containers that run have the layers mounted, which a rename does not disturb.
absl::StatusOr<DamagedStore> SetStoreAside(const std::string& root);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_DAMAGED_STORE_H_
