// Any bytes as the body of a registry's error answer, and as its Retry-After.

#include "images/registry/registry_error.h"
#include "images/registry/retry.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  return {R"({"errors":[{"code":"MANIFEST_UNKNOWN","message":"not known","detail":{"tag":"x"}}]})",
          R"({"errors":[{"code":1,"message":null}]})",
          R"({"details":"incorrect username or password"})",
          "<html>503</html>",
          "120",
          "Wed, 21 Oct 2026 07:28:00 GMT"};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace images = davit::images;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string said = images::RegistryErrorText(text);
  DAVIT_FUZZ_CHECK(said.size() <= 4096);
  for (const char c : said) DAVIT_FUZZ_CHECK(static_cast<unsigned char>(c) >= ' ' && c != 0x7f);
  const auto delay = images::ParseRetryAfter(text, absl::UnixEpoch());
  if (delay.has_value()) DAVIT_FUZZ_CHECK(*delay >= absl::ZeroDuration());
  return 0;
}
