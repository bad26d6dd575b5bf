#ifndef DAVIT_IMAGES_STORE_LAYER_INDEX_H_
#define DAVIT_IMAGES_STORE_LAYER_INDEX_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace davit::images {

// What a layer's tree holds and takes.
struct TreeSummary {
  uint64_t bytes = 0;  // allocated on disk, files with several links counted once
  uint64_t inodes = 0;
  // The index: for each entry "<octal st_mode> <size> <path>\0", zstd-compressed; a directory comes
  // before what is in it, the top directory has the path ".". The size is 0 for what is not a
  // regular file. It tells later, without reading content, whether a tree is still whole.
  std::string index;
};

// Walks the tree below `dirfd`, which nobody changes meanwhile, without following links.
absl::StatusOr<TreeSummary> SummariseTree(int dirfd);

// Compares a tree with the index that was made of it. DataLoss names the first difference.
absl::Status CheckTree(int dirfd, const std::string& index);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_LAYER_INDEX_H_
