// Any bytes as an image reference.

#include "images/reference.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  const std::string digest = "sha256:" + std::string(64, 'a');
  return {"busybox",
          "docker.io/library/busybox:1.36",
          "127.0.0.1:5000/a/b__c/d-e:tag@" + digest,
          "[::1]:5000/x@" + digest,
          "REGISTRY.example.com/a.b/c:v1.0_x-y",
          digest,
          std::string(64, 'b')};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace images = davit::images;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  (void)images::IdDigits(text, 4);
  const auto reference = images::ParseReference(text);
  if (!reference.ok()) return 0;
  // What is shown to people means the same again.
  if (const std::string tagged = reference->Tagged(); !tagged.empty()) {
    const auto again = images::ParseReference(tagged);
    DAVIT_FUZZ_CHECK(again.ok() && again->Tagged() == tagged);
  }
  DAVIT_FUZZ_CHECK(!reference->domain.empty() && !reference->path.empty());
  // Nothing of it can leave its place in a URL or a path.
  for (const std::string& part : {reference->domain, reference->path, reference->tag}) {
    for (const char c : part)
      DAVIT_FUZZ_CHECK(c > ' ' && c < 0x7f && c != '?' && c != '#' && c != '%');
  }
  DAVIT_FUZZ_CHECK(reference->path.find("..") == std::string::npos);
  DAVIT_FUZZ_CHECK(reference->tag.find('/') == std::string::npos);
  return 0;
}
