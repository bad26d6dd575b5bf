#include "runtime/sys/utf8.h"

namespace davit::sys {
namespace {

constexpr absl::string_view kReplacement = "\xef\xbf\xbd";

unsigned char At(absl::string_view text, size_t i) { return static_cast<unsigned char>(text[i]); }

bool IsContinuation(unsigned char byte) { return (byte & 0xc0) == 0x80; }

// Length of the sequence that `text` begins with; 0 if it begins with none.
size_t SequenceLength(absl::string_view text) {
  const unsigned char lead = At(text, 0);
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsContinuation(At(text, i))) return 0;
  }
  // Overlong forms, surrogates, and what is beyond U+10FFFF.
  const unsigned char second = At(text, 1);
  if (lead == 0xe0 && second < 0xa0) return 0;
  if (lead == 0xed && second > 0x9f) return 0;
  if (lead == 0xf0 && second < 0x90) return 0;
  if (lead == 0xf4 && second > 0x8f) return 0;
  return length;
}

}  // namespace

std::string ValidUtf8(absl::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const size_t length = SequenceLength(text);
    const absl::string_view piece = length == 0 ? kReplacement : text.substr(0, length);
    valid.append(piece.data(), piece.size());
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return valid;
}

absl::string_view TruncateUtf8(absl::string_view text, size_t limit) {
  if (text.size() <= limit) return text;
  size_t end = limit;
  while (end > 0 && IsContinuation(At(text, end))) --end;
  return text.substr(0, end);
}

}  // namespace davit::sys
