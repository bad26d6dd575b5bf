#ifndef DAVIT_IMAGES_UNPACK_PIPELINE_H_
#define DAVIT_IMAGES_UNPACK_PIPELINE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "images/unpack/chunk_ring.h"
#include "images/unpack/decompressor.h"
#include "images/unpack/layer_writer.h"
#include "images/unpack/result.h"
#include "runtime/sys/mutex.h"

namespace davit::images::unpack {

// Where the compressed bytes come from; see RingReader.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual absl::StatusOr<absl::string_view> Next() = 0;
  virtual absl::StatusOr<bool> Ready() = 0;
  virtual absl::Status Release(uint64_t bytes) = 0;
};

// One layer's way from compressed bytes to files: decompression, hashing and writing, each on a
// thread of its own with buffers handed from one to the next. Threads are made by the constructor
// and wait, so that they exist before system calls are restricted.
class Pipeline {
 public:
  struct Outcome {
    std::string sha256;  // 32 bytes, of the whole uncompressed stream
    uint64_t uncompressed_size = 0;
    Compression compression = Compression::kNone;
    std::vector<PendingRecords::Record> records;
  };

  // `source` is used by the decompressing thread only. `tick` is called by the writing thread now
  // and then, with the tar bytes written so far. Both are borrowed.
  Pipeline(ByteSource* source, const Limits& limits);
  ~Pipeline();

  // Runs it on the calling thread (which writes) and the two others. Once.
  absl::StatusOr<Outcome> Run(LayerWriter* writer, const std::function<void(uint64_t)>& tick);

 private:
  static constexpr int kHasher = 0;
  static constexpr int kWriter = 1;

  void Decompress();
  absl::Status DecompressAll();
  absl::StatusOr<bool> FillChunk(char* chunk, size_t* size);
  absl::Status CheckSize() const;
  void Hash();
  absl::Status Write(LayerWriter* writer, const std::function<void(uint64_t)>& tick);

  bool WaitForStart();

  ByteSource* const source_;
  const Limits limits_;
  ChunkRing ring_;
  Decompressor decompressor_;
  uint64_t compressed_bytes_ = 0;
  uint64_t tar_bytes_ = 0;

  sys::Mutex mutex_;
  sys::CondVar started_changed_;
  enum class Stage { kWaiting, kRunning, kAbandoned };
  Stage stage_ ABSL_GUARDED_BY(mutex_) = Stage::kWaiting;

  // Written by their threads, read after joining them.
  absl::Status decompress_status_;
  absl::Status hash_status_;
  std::string sha256_;

  std::thread decompressing_;
  std::thread hashing_;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_PIPELINE_H_
