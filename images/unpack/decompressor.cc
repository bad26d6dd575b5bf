#include "images/unpack/decompressor.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "images/unpack/gzip_decoder.h"
#include "images/unpack/zstd_decoder.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

constexpr size_t kMagicBytes = 4;

bool IsGzip(absl::string_view head) { return absl::StartsWith(head, "\x1f\x8b\x08"); }

bool IsZstd(absl::string_view head) {
  if (absl::StartsWith(head, "\x28\xb5\x2f\xfd")) return true;
  // A skippable frame, 0x184D2A50 to 0x184D2A5F little-endian: zstd:chunked may begin with one.
  return head.size() >= 4 && (head[0] & 0xf0) == 0x50 && head.substr(1, 3) == "\x2a\x4d\x18";
}

class PlainDecoder : public Decoder {
 public:
  absl::StatusOr<size_t> Decode(absl::string_view* in, char* out, size_t size) override {
    const size_t take = std::min(in->size(), size);
    if (take > 0) memcpy(out, in->data(), take);  // an empty view may have no address
    in->remove_prefix(take);
    return take;
  }
  absl::Status Finish() override { return absl::OkStatus(); }
};

}  // namespace

void Decompressor::Choose() {
  if (IsGzip(head_)) {
    kind_ = Compression::kGzip;
    decoder_ = NewGzipDecoder();
  } else if (IsZstd(head_)) {
    kind_ = Compression::kZstd;
    decoder_ = NewZstdDecoder();
  } else {
    decoder_ = std::make_unique<PlainDecoder>();
  }
}

absl::StatusOr<size_t> Decompressor::Decode(absl::string_view* in, char* out, size_t size) {
  if (decoder_ == nullptr) {
    const size_t take = std::min(kMagicBytes - head_.size(), in->size());
    head_.append(in->data(), take);
    in->remove_prefix(take);
    if (head_.size() < kMagicBytes) return 0;
    Choose();
  }
  if (!head_.empty()) {
    absl::string_view head = head_;
    DAVIT_ASSIGN_OR_RETURN(const size_t written, decoder_->Decode(&head, out, size));
    head_.erase(0, head_.size() - head.size());
    if (written == size || !head_.empty()) return written;
    DAVIT_ASSIGN_OR_RETURN(const size_t more, decoder_->Decode(in, out + written, size - written));
    return written + more;
  }
  return decoder_->Decode(in, out, size);
}

absl::StatusOr<size_t> Decompressor::Finish(char* out, size_t size) {
  if (decoder_ == nullptr) Choose();
  absl::string_view nothing;
  DAVIT_ASSIGN_OR_RETURN(const size_t written, Decode(&nothing, out, size));
  if (written > 0) return written;
  DAVIT_RETURN_IF_ERROR(decoder_->Finish());
  return 0;
}

}  // namespace davit::images::unpack
