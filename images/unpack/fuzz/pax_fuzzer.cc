// Any bytes as the payload of a PAX extended header.

#include <cstddef>
#include <cstdint>

#include "images/unpack/pax.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)davit::images::unpack::ParsePax(
      absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
