#ifndef DAVIT_IMAGES_UNPACK_CHUNK_RING_H_
#define DAVIT_IMAGES_UNPACK_CHUNK_RING_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/sys/mutex.h"

namespace davit::images::unpack {

// A bounded ring of buffers between one producer thread and a fixed number of consumer threads,
// each of which sees every buffer, in order. Nothing is copied. Thread-safe in those roles.
class ChunkRing {
 public:
  static constexpr int kMaxConsumers = 2;

  ChunkRing(size_t chunks, size_t chunk_bytes, int consumers);

  size_t chunk_bytes() const { return chunk_bytes_; }

  // Producer: the next buffer to fill, once every consumer has left it; null after Cancel. The
  // buffer keeps its content until Publish.
  char* Begin();
  // Producer: hands the first `size` bytes of that buffer to the consumers.
  void Publish(size_t size);
  // Producer: no more will come.
  void Close();

  // Consumer: waits for the next buffer; nullopt at the end and after Cancel.
  std::optional<absl::string_view> Next(int consumer);
  // Consumer: done with what Next gave.
  void Release(int consumer);

  // Anybody: wakes everybody up; from now on Begin and Next give nothing.
  void Cancel();
  bool cancelled() const;

 private:
  struct Chunk {
    std::unique_ptr<char[]> data;
    size_t size = 0;
  };

  uint64_t Slowest() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t chunk_bytes_;
  const int consumers_;
  std::vector<Chunk> chunks_;  // slot contents belong to whoever the counters say

  mutable sys::Mutex mutex_;
  sys::CondVar room_;
  sys::CondVar filled_;
  uint64_t published_ ABSL_GUARDED_BY(mutex_) = 0;
  std::array<uint64_t, kMaxConsumers> released_ ABSL_GUARDED_BY(mutex_){};
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_CHUNK_RING_H_
