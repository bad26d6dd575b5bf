// Any bytes as a layer blob. The first two bytes choose how input and output are cut.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>

#include "images/unpack/decompressor.h"
#include "images/unpack/testing/tar_builder.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  using images::unpack::testing::Gzip;
  using images::unpack::testing::Zstd;
  std::string text;
  for (int i = 0; i < 200; ++i) text += std::to_string(i * i);
  // A skippable frame, and members one after the other.
  const std::string skippable("\x50\x2a\x4d\x18\x04\x00\x00\x00skip", 12);
  return {"zz" + Gzip(text),
          "zz" + Zstd(text),
          "\x01\x01" + Gzip(text) + Gzip("second"),
          "\x01\x01" + Zstd(text) + skippable + Zstd("second"),
          "zz" + text,
          std::string("zz\x1f\x8b\x08\x1f\0\0\0\0\0\x03\x02\0ab", 16)};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t in_piece = data[0] + size_t{1};
  std::string out((data[1] + size_t{1}) * 16, '\0');
  absl::string_view rest(reinterpret_cast<const char*>(data + 2), size - 2);
  davit::images::unpack::Decompressor decompressor;
  uint64_t total = 0;
  while (!rest.empty()) {
    absl::string_view in = rest.substr(0, in_piece);
    rest.remove_prefix(in.size());
    for (size_t written = out.size(); !in.empty() || written == out.size();) {
      const auto result = decompressor.Decode(&in, out.data(), out.size());
      if (!result.ok()) return 0;
      written = *result;
      total += written;
      if (total > (64 << 20)) return 0;  // a bomb: the caller's bound
    }
  }
  while (true) {
    const auto result = decompressor.Finish(out.data(), out.size());
    if (!result.ok() || *result == 0) return 0;
  }
}
