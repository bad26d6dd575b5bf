#include "images/pull/disk_space.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

constexpr uint64_t kReserve = 16 << 20;
constexpr uint64_t kInodesPerLayer = 64;

bool IsCompressed(const Descriptor& layer) {
  return absl::EndsWith(layer.media_type, "gzip") || absl::EndsWith(layer.media_type, "zstd");
}

}  // namespace

uint64_t EstimatedBytes(const std::vector<Descriptor>& layers) {
  uint64_t sum = 0;
  for (const Descriptor& layer : layers) {
    const uint64_t size = std::min<uint64_t>(layer.size, uint64_t{1} << 50);
    sum += IsCompressed(layer) ? size / 2 * 5 : size;
  }
  return sum;
}

absl::Status CheckDiskSpace(int dirfd, const std::vector<Descriptor>& layers) {
  if (layers.empty()) return absl::OkStatus();
  struct statvfs fs;
  if (fstatvfs(dirfd, &fs) != 0) return sys::ErrnoStatus(errno, "statvfs of the image store");
  const uint64_t free_bytes = uint64_t{fs.f_bavail} * fs.f_frsize;
  const uint64_t wanted = EstimatedBytes(layers);
  if (wanted + kReserve > free_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the image needs about ", wanted >> 20,
                                                     " MiB, the image store's disk has ",
                                                     free_bytes >> 20, " MiB left"));
  }
  // Some file systems have no fixed number of inodes and say 0.
  if (fs.f_files != 0 && fs.f_favail < kInodesPerLayer * layers.size()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the image store's disk has only ", fs.f_favail, " inodes left"));
  }
  return absl::OkStatus();
}

}  // namespace davit::images
