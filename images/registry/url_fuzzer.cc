// Any bytes as a URL, and as the Location of a redirect from one.

#include "images/registry/url.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  return {"https://registry.example.com/v2/a/blobs/sha256:00?x=y&z=%20#f",
          "http://[::1]:5000/",
          "//other.example.com:444/path",
          "../up?q",
          "/v2/token",
          "https://user:secret@example.com/",
          "HTTP://EXAMPLE.com:80/%2e%2e/a b"};
}

}  // namespace davit::fuzzing

namespace {

void Check(const davit::images::Url& url) {
  DAVIT_FUZZ_CHECK(url.scheme == "http" || url.scheme == "https");
  DAVIT_FUZZ_CHECK(url.port > 0 && url.port <= 65535);
  DAVIT_FUZZ_CHECK(!url.host.empty() && !url.path.empty() && url.path[0] == '/');
  // Nothing that ends a header line, or hides another host.
  for (const std::string& part : {url.host, url.path, url.query}) {
    for (const char c : part) DAVIT_FUZZ_CHECK(static_cast<unsigned char>(c) >= ' ' && c != 0x7f);
  }
  DAVIT_FUZZ_CHECK(url.host.find('@') == std::string::npos);
  const auto again = davit::images::ParseUrl(url.ToString());
  DAVIT_FUZZ_CHECK(again.ok());
  DAVIT_FUZZ_CHECK(again->Origin() == url.Origin());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace images = davit::images;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto url = images::ParseUrl(text); url.ok()) Check(*url);
  const images::Url base = *images::ParseUrl("https://registry.example.com:5000/v2/a/blobs/b");
  if (const auto url = images::ResolveUrl(base, text); url.ok()) Check(*url);
  (void)images::IsLoopbackHost(text);
  return 0;
}
