#ifndef DAVIT_IMAGES_PULL_DISK_SPACE_H_
#define DAVIT_IMAGES_PULL_DISK_SPACE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "images/document/manifest.h"

namespace davit::images {

// What unpacking `layers` will take, guessed from their compressed sizes.
uint64_t EstimatedBytes(const std::vector<Descriptor>& layers);

// ResourceExhausted if the file system of `dirfd` has visibly too few blocks or inodes for them.
// Unpacking may still run out of space later.
absl::Status CheckDiskSpace(int dirfd, const std::vector<Descriptor>& layers);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_PULL_DISK_SPACE_H_
