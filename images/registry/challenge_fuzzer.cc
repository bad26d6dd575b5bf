// Any bytes as a WWW-Authenticate header.

#include "images/registry/challenge.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  return {
      R"(Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a:pull")",
      R"(Basic realm="a \"quoted\" one", Bearer realm=x,service=y)",
      "Negotiate, Basic realm=\"\"",
      "Bearer error=\"insufficient_scope\" , , realm = \"r\"",
      "Custom abc123==, Digest qop=\"auth,auth-int\"",
  };
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view header(reinterpret_cast<const char*>(data), size);
  for (const auto& challenge : davit::images::ParseChallenges(header)) {
    DAVIT_FUZZ_CHECK(!challenge.scheme.empty());
    for (const char c : challenge.scheme) DAVIT_FUZZ_CHECK(c < 'A' || c > 'Z');
    for (const auto& [name, value] : challenge.params) {
      DAVIT_FUZZ_CHECK(!name.empty() && value.size() <= size);
    }
  }
  return 0;
}
