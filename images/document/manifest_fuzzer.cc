// Any bytes as an index or a manifest. The first byte chooses the Content-Type that came with it.

#include <iterator>

#include "images/document/manifest.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {
namespace {

constexpr const char* kContentTypes[] = {
    "",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/json; charset=utf-8",
    "text/plain",
};

}  // namespace

const char* ContentType(uint8_t choice) { return kContentTypes[choice % std::size(kContentTypes)]; }

std::vector<std::string> Seeds() {
  const std::string digest = "\"digest\":\"sha256:" + std::string(64, 'a') + "\"";
  const std::string layer =
      R"({"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","size":123,)" + digest + "}";
  const std::string config =
      R"({"mediaType":"application/vnd.oci.image.config.v1+json","size":7,)" + digest + "}";
  const std::string manifest =
      R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":)" +
      config + ",\"layers\":[" + layer + "," + layer + R"(],"annotations":{"a":"b"},)" +
      R"("artifactType":"x/y","subject":)" + config + "}";
  const std::string entry =
      R"({"mediaType":"application/vnd.oci.image.manifest.v1+json","size":9,)" + digest +
      R"(,"platform":{"architecture":"arm64","os":"linux","variant":"v8","os.version":"1",)"
      R"("os.features":["f"]},"annotations":{"vnd.docker.reference.type":"attestation-manifest"}})";
  const std::string index =
      R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[)" +
      entry + "," + entry + "]}";
  const std::string docker =
      R"({"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",)"
      R"("config":{"mediaType":"application/vnd.docker.container.image.v1+json","size":7,)" +
      digest + R"(},"layers":[{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip",)" +
      R"("size":1,)" + digest + "}]}";
  return {std::string(1, '\0') + manifest,
          "\x02" + manifest,
          "\x01" + index,
          std::string(1, '\0') + index,
          "\x04" + docker,
          "\x05" + manifest,
          "\x04{\"schemaVersion\":1,\"fsLayers\":[],\"history\":[]}"};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace images = davit::images;
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto document = images::ParseManifestDocument(text, davit::fuzzing::ContentType(data[0]));
  if (!document.ok()) return 0;
  if (const auto* index = std::get_if<images::Index>(&*document)) {
    const images::Platform host{.os = "linux", .architecture = "arm64", .variant = "v8"};
    const auto chosen = images::ChooseManifest(*index, host);
    if (chosen.ok()) DAVIT_FUZZ_CHECK(!chosen->digest.hex().empty());
    return 0;
  }
  const auto& manifest = std::get<images::Manifest>(*document);
  DAVIT_FUZZ_CHECK(manifest.layers.size() <= images::kMaxLayers);
  for (const images::Descriptor& layer : manifest.layers) {
    DAVIT_FUZZ_CHECK(!layer.digest.hex().empty());
  }
  (void)manifest.IsImage();
  return 0;
}
