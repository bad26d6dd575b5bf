// Any bytes as the payload of a PAX extended header.

#include <cstddef>
#include <cstdint>

#include "images/unpack/pax.h"
#include "images/unpack/testing/tar_builder.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  using images::unpack::testing::PaxRecord;
  return {PaxRecord("path", "a/b") + PaxRecord("size", "12345678901") + PaxRecord("mtime", "-1.5"),
          PaxRecord("SCHILY.xattr.user.a", "b") + PaxRecord("GNU.sparse.map", "1,2,4,8"),
          PaxRecord("GNU.sparse.major", "1") + PaxRecord("GNU.sparse.minor", "0") +
              PaxRecord("GNU.sparse.realsize", "100") + PaxRecord("GNU.sparse.name", "n"),
          PaxRecord("uid", "4294967295") + PaxRecord("gname", "g") + PaxRecord("linkpath", "l")};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  (void)davit::images::unpack::ParsePax(
      absl::string_view(reinterpret_cast<const char*>(data), size));
  return 0;
}
