#include "images/unpack/pipeline.h"

#include <openssl/evp.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "images/unpack/tar_parser.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

// Large enough to hide one stage's hiccups from the next and to keep inflate out of its slow
// per-call path, small enough to stay in the second-level cache.
constexpr size_t kChunkBytes = 256 * 1024;
constexpr size_t kChunks = 12;
constexpr int kConsumers = 2;

}  // namespace

Pipeline::Pipeline(ByteSource* source, const Limits& limits)
    : source_(source),
      limits_(limits),
      ring_(kChunks, kChunkBytes, kConsumers),
      decompressing_([this] { Decompress(); }),
      hashing_([this] { Hash(); }) {}

Pipeline::~Pipeline() {
  {
    sys::MutexLock lock(&mutex_);
    if (stage_ == Stage::kWaiting) stage_ = Stage::kAbandoned;
    started_changed_.SignalAll();
  }
  ring_.Cancel();
  if (decompressing_.joinable()) decompressing_.join();
  if (hashing_.joinable()) hashing_.join();
}

bool Pipeline::WaitForStart() {
  sys::MutexLock lock(&mutex_);
  while (stage_ == Stage::kWaiting) started_changed_.Wait(&mutex_);
  return stage_ == Stage::kRunning;
}

void Pipeline::Decompress() {
  if (!WaitForStart()) return;
  decompress_status_ = DecompressAll();
  if (decompress_status_.ok()) {
    ring_.Close();
  } else {
    ring_.Cancel();
  }
}

absl::Status Pipeline::DecompressAll() {
  for (bool end = false; !end;) {
    char* const chunk = ring_.Begin();
    if (chunk == nullptr) return absl::CancelledError("another stage failed");
    size_t size = 0;
    DAVIT_ASSIGN_OR_RETURN(end, FillChunk(chunk, &size));
    if (size > 0) ring_.Publish(size);
    tar_bytes_ += size;
    DAVIT_RETURN_IF_ERROR(CheckSize());
  }
  return absl::OkStatus();
}

// Decompresses until the chunk is full, the stream ends (true), or nothing more has arrived: what
// is there goes on then, so that a slow network does not hold back what it has brought.
absl::StatusOr<bool> Pipeline::FillChunk(char* chunk, size_t* size) {
  while (*size < kChunkBytes) {
    if (*size > 0) {
      DAVIT_ASSIGN_OR_RETURN(const bool ready, source_->Ready());
      if (!ready) return false;
    }
    DAVIT_ASSIGN_OR_RETURN(const absl::string_view available, source_->Next());
    if (available.empty()) {
      DAVIT_ASSIGN_OR_RETURN(const size_t last,
                             decompressor_.Finish(chunk + *size, kChunkBytes - *size));
      *size += last;
      if (last == 0) return true;
      continue;
    }
    absl::string_view rest = available;
    DAVIT_ASSIGN_OR_RETURN(const size_t written,
                           decompressor_.Decode(&rest, chunk + *size, kChunkBytes - *size));
    *size += written;
    const uint64_t used = available.size() - rest.size();
    compressed_bytes_ += used;
    DAVIT_RETURN_IF_ERROR(source_->Release(used));
  }
  return false;
}

absl::Status Pipeline::CheckSize() const {
  if (tar_bytes_ > limits_.max_tar_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("the layer has more than ", limits_.max_tar_bytes, " bytes uncompressed"));
  }
  if (tar_bytes_ > limits_.ratio_floor_bytes &&
      tar_bytes_ / limits_.max_ratio > compressed_bytes_) {
    return absl::FailedPreconditionError(
        absl::StrCat("the layer inflates to more than ", limits_.max_ratio, " times its size"));
  }
  return absl::OkStatus();
}

void Pipeline::Hash() {
  if (!WaitForStart()) return;
  EVP_MD_CTX* const context = EVP_MD_CTX_new();
  bool good = context != nullptr && EVP_DigestInit_ex(context, EVP_sha256(), nullptr) == 1;
  while (const std::optional<absl::string_view> data = ring_.Next(kHasher)) {
    good = good && EVP_DigestUpdate(context, data->data(), data->size()) == 1;
    ring_.Release(kHasher);
  }
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  good = good && EVP_DigestFinal_ex(context, digest, &size) == 1;
  EVP_MD_CTX_free(context);
  if (!good) hash_status_ = absl::InternalError("SHA-256 failed");
  sha256_.assign(reinterpret_cast<const char*>(digest), size);
}

absl::Status Pipeline::Write(LayerWriter* writer, const std::function<void(uint64_t)>& tick) {
  TarParser parser(writer);
  uint64_t done = 0;
  while (const std::optional<absl::string_view> data = ring_.Next(kWriter)) {
    DAVIT_RETURN_IF_ERROR(parser.Push(*data));
    done += data->size();
    ring_.Release(kWriter);
    tick(done);
  }
  // A failing decompressor has the better reason than a tar that stops in the middle.
  return ring_.cancelled() ? absl::OkStatus() : parser.Finish();
}

absl::StatusOr<Pipeline::Outcome> Pipeline::Run(LayerWriter* writer,
                                                const std::function<void(uint64_t)>& tick) {
  {
    sys::MutexLock lock(&mutex_);
    stage_ = Stage::kRunning;
    started_changed_.SignalAll();
  }
  if (absl::Status written = Write(writer, tick); !written.ok()) {
    ring_.Cancel();  // the threads are left to the destructor: one may be waiting for input
    return written;
  }
  decompressing_.join();
  hashing_.join();
  DAVIT_RETURN_IF_ERROR(decompress_status_);
  DAVIT_RETURN_IF_ERROR(hash_status_);
  Outcome outcome;
  outcome.sha256 = sha256_;
  outcome.uncompressed_size = tar_bytes_;
  outcome.compression = decompressor_.kind();
  DAVIT_ASSIGN_OR_RETURN(outcome.records, writer->Finish());
  return outcome;
}

}  // namespace davit::images::unpack
