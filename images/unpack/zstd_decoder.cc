#include "images/unpack/zstd_decoder.h"

#include <zstd.h>
#include <zstd_errors.h>

#include "absl/strings/str_cat.h"

namespace davit::images::unpack {
namespace {

// A layer must not make us allocate more than this for its window; `zstd --ultra` needs no more,
// only `--long` beyond 27 does.
constexpr int kWindowLogMax = 27;

class ZstdDecoder : public Decoder {
 public:
  ZstdDecoder() : context_(ZSTD_createDCtx()) {
    ZSTD_DCtx_setParameter(context_, ZSTD_d_windowLogMax, kWindowLogMax);
  }
  ~ZstdDecoder() override { ZSTD_freeDCtx(context_); }
  ZstdDecoder(const ZstdDecoder&) = delete;
  ZstdDecoder& operator=(const ZstdDecoder&) = delete;

  absl::StatusOr<size_t> Decode(absl::string_view* in, char* out, size_t size) override {
    ZSTD_inBuffer input{in->data(), in->size(), 0};
    ZSTD_outBuffer output{out, size, 0};
    // Without input only what an earlier call had no room for can come out.
    while (output.pos < output.size && (input.pos < input.size || full_)) {
      const size_t before_in = input.pos;
      const size_t before_out = output.pos;
      const size_t result = ZSTD_decompressStream(context_, &output, &input);
      if (ZSTD_isError(result)) return Error(result);
      full_ = output.pos == output.size;
      if (input.pos == before_in && output.pos == before_out) break;
      in_frame_ = result != 0;
    }
    in->remove_prefix(input.pos);
    return output.pos;
  }

  absl::Status Finish() override {
    if (in_frame_) return absl::DataLossError("zstd: the stream is truncated");
    return absl::OkStatus();
  }

 private:
  static absl::Status Error(size_t result) {
    const std::string message = absl::StrCat("zstd: ", ZSTD_getErrorName(result));
    if (ZSTD_getErrorCode(result) == ZSTD_error_frameParameter_windowTooLarge) {
      return absl::FailedPreconditionError(
          absl::StrCat(message, " (more than ", 1 << (kWindowLogMax - 20), " MiB)"));
    }
    return absl::DataLossError(message);
  }

  ZSTD_DCtx* const context_;
  bool in_frame_ = false;
  bool full_ = false;
};

}  // namespace

std::unique_ptr<Decoder> NewZstdDecoder() { return std::make_unique<ZstdDecoder>(); }

}  // namespace davit::images::unpack
