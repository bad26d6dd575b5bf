#include "images/unpack/gzip_decoder.h"

#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

constexpr uint8_t kFlagHeaderCrc = 2, kFlagExtra = 4, kFlagName = 8, kFlagComment = 16;
constexpr uint8_t kReservedFlags = 0xe0;
constexpr uint8_t kDeflate = 8;

absl::Status Corrupt(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("gzip: ", what));
}

// The member header, a byte at a time: ISA-L's own reader loses the header checksum when a header
// comes in more than one piece.
class GzipHeader {
 public:
  // Takes header bytes off `in`; true once the header is complete.
  absl::StatusOr<bool> Take(absl::string_view* in) {
    while (!in->empty()) {
      const auto byte = static_cast<uint8_t>(in->front());
      in->remove_prefix(1);
      DAVIT_ASSIGN_OR_RETURN(const bool complete, TakeByte(byte));
      if (complete) return true;
    }
    return false;
  }

  bool begun() const { return position_ > 0; }

 private:
  enum class Part { kFixed, kExtraLength, kExtra, kName, kComment, kCrc };

  absl::StatusOr<bool> TakeByte(uint8_t byte) {
    if (part_ != Part::kCrc) crc_ = crc32_gzip_refl(crc_, &byte, 1);
    ++position_;
    switch (part_) {
      case Part::kFixed:
        if (position_ == 1 && byte != 0x1f) return Corrupt("bytes that are no member");
        if (position_ == 2 && byte != 0x8b) return Corrupt("bytes that are no member");
        if (position_ == 3 && byte != kDeflate) return Corrupt("unknown compression method");
        if (position_ == 4) {
          if ((byte & kReservedFlags) != 0) return Corrupt("unknown header flags");
          flags_ = byte;
        }
        if (position_ == 10) return Next(Part::kFixed);
        return false;
      case Part::kExtraLength:
        value_ |= static_cast<uint32_t>(byte) << (8 * count_++);
        if (count_ < 2) return false;
        left_ = value_;
        if (left_ == 0) return Next(Part::kExtra);
        part_ = Part::kExtra;
        return false;
      case Part::kExtra:
        return --left_ == 0 ? Next(Part::kExtra) : false;
      case Part::kName:
      case Part::kComment:
        return byte == 0 ? Next(part_) : false;
      case Part::kCrc:
        value_ |= static_cast<uint32_t>(byte) << (8 * count_++);
        if (count_ < 2) return false;
        if (value_ != (crc_ & 0xffff)) return Corrupt("the header's checksum is wrong");
        return true;
    }
    return false;
  }

  // Goes to the next part that the flags announce; true if there is none.
  bool Next(Part after) {
    value_ = 0;
    count_ = 0;
    if (after < Part::kExtraLength && (flags_ & kFlagExtra) != 0) {
      part_ = Part::kExtraLength;
    } else if (after < Part::kName && (flags_ & kFlagName) != 0) {
      part_ = Part::kName;
    } else if (after < Part::kComment && (flags_ & kFlagComment) != 0) {
      part_ = Part::kComment;
    } else if ((flags_ & kFlagHeaderCrc) != 0) {
      part_ = Part::kCrc;
    } else {
      return true;
    }
    return false;
  }

  Part part_ = Part::kFixed;
  uint64_t position_ = 0;
  uint8_t flags_ = 0;
  uint32_t crc_ = 0;
  uint32_t value_ = 0;
  int count_ = 0;
  uint32_t left_ = 0;
};

class GzipDecoder : public Decoder {
 public:
  GzipDecoder() { isal_inflate_init(&state_); }

  absl::StatusOr<size_t> Decode(absl::string_view* in, char* out, size_t size) override {
    size_t written = 0;
    for (;;) {
      if (!in_member_) {
        if (in->empty()) return written;
        DAVIT_ASSIGN_OR_RETURN(const bool complete, header_.Take(in));
        if (!complete) return written;
        BeginMember();
      }
      const size_t left = in->size();
      DAVIT_ASSIGN_OR_RETURN(const size_t more, Inflate(in, out + written, size - written));
      written += more;
      if (state_.block_state == ISAL_BLOCK_FINISH) {
        in_member_ = false;
        header_ = GzipHeader();
        continue;
      }
      // What is held back is written when the caller asks again for having got a full buffer.
      if (written == size || in->empty()) return written;
      if (more == 0 && in->size() == left) return Corrupt("the deflate stream makes no progress");
    }
  }

  absl::Status Finish() override {
    if (in_member_ || header_.begun()) return Corrupt("the stream is truncated");
    return absl::OkStatus();
  }

 private:
  void BeginMember() {
    isal_inflate_reset(&state_);
    // Raw deflate, then the trailer, which is compared with what came out.
    state_.crc_flag = ISAL_GZIP_NO_HDR_VER;
    in_member_ = true;
  }

  absl::StatusOr<size_t> Inflate(absl::string_view* in, char* out, size_t size) {
    constexpr size_t kMost = std::numeric_limits<int32_t>::max();
    const size_t give = std::min(in->size(), kMost);
    state_.next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(in->data()));
    state_.avail_in = static_cast<uint32_t>(give);
    state_.next_out = reinterpret_cast<uint8_t*>(out);
    state_.avail_out = static_cast<uint32_t>(std::min(size, kMost));
    const uint32_t offered = state_.avail_out;
    const int result = isal_inflate(&state_);
    if (result == ISAL_INCORRECT_CHECKSUM) return Corrupt("checksum or size mismatch");
    if (result < 0) return Corrupt("the deflate stream is damaged");
    in->remove_prefix(give - state_.avail_in);
    return offered - state_.avail_out;
  }

  inflate_state state_;
  GzipHeader header_;
  bool in_member_ = false;
};

}  // namespace

std::unique_ptr<Decoder> NewGzipDecoder() { return std::make_unique<GzipDecoder>(); }

}  // namespace davit::images::unpack
