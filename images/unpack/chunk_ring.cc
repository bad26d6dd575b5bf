#include "images/unpack/chunk_ring.h"

#include <algorithm>

namespace davit::images::unpack {

ChunkRing::ChunkRing(size_t chunks, size_t chunk_bytes, int consumers)
    : chunk_bytes_(chunk_bytes), consumers_(consumers), chunks_(chunks) {
  // for_overwrite: a page of the ring that a small layer never reaches is never touched.
  for (Chunk& chunk : chunks_) chunk.data = std::make_unique_for_overwrite<char[]>(chunk_bytes);
}

uint64_t ChunkRing::Slowest() const {
  return *std::min_element(released_.begin(), released_.begin() + consumers_);
}

char* ChunkRing::Begin() {
  sys::MutexLock lock(&mutex_);
  while (!cancelled_ && published_ - Slowest() == chunks_.size()) room_.Wait(&mutex_);
  return cancelled_ ? nullptr : chunks_[published_ % chunks_.size()].data.get();
}

void ChunkRing::Publish(size_t size) {
  sys::MutexLock lock(&mutex_);
  chunks_[published_ % chunks_.size()].size = size;
  ++published_;
  filled_.SignalAll();
}

void ChunkRing::Close() {
  sys::MutexLock lock(&mutex_);
  closed_ = true;
  filled_.SignalAll();
}

std::optional<absl::string_view> ChunkRing::Next(int consumer) {
  sys::MutexLock lock(&mutex_);
  const uint64_t next = released_[consumer];
  while (!cancelled_ && !closed_ && published_ == next) filled_.Wait(&mutex_);
  if (cancelled_ || published_ == next) return std::nullopt;
  const Chunk& chunk = chunks_[next % chunks_.size()];
  return absl::string_view(chunk.data.get(), chunk.size);
}

void ChunkRing::Release(int consumer) {
  sys::MutexLock lock(&mutex_);
  ++released_[consumer];
  room_.Signal();
}

void ChunkRing::Cancel() {
  sys::MutexLock lock(&mutex_);
  cancelled_ = true;
  room_.SignalAll();
  filled_.SignalAll();
}

bool ChunkRing::cancelled() const {
  sys::MutexLock lock(&mutex_);
  return cancelled_;
}

}  // namespace davit::images::unpack
