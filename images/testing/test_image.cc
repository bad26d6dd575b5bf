#include "images/testing/test_image.h"

#include <zlib.h>

#include <cstdlib>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "images/digest.h"
#include "images/document/media_type.h"

namespace davit::images::testing {
namespace {

Digest Sha256(absl::string_view bytes) { return Hasher::Hash(Digest::Algorithm::kSha256, bytes); }

void PutOctal(char* field, size_t size, unsigned long long value) {
  for (size_t i = size - 1; i-- > 0; value >>= 3) field[i] = static_cast<char>('0' + (value & 7));
}

std::string DescriptorJson(absl::string_view type, absl::string_view bytes,
                           absl::string_view extra = "") {
  return absl::StrCat(R"({"mediaType":")", type, R"(","digest":")", Sha256(bytes).ToString(),
                      R"(","size":)", bytes.size(), extra, "}");
}

}  // namespace

TarBuilder& TarBuilder::Entry(absl::string_view name, char type, absl::string_view content,
                              absl::string_view link, unsigned mode, unsigned uid, unsigned major,
                              unsigned minor) {
  char header[512] = {};
  std::memcpy(header, name.data(), std::min<size_t>(name.size(), 100));
  PutOctal(header + 100, 8, mode);
  PutOctal(header + 108, 8, uid);
  PutOctal(header + 116, 8, uid);
  PutOctal(header + 124, 12, content.size());
  PutOctal(header + 136, 12, 1'700'000'000);
  header[156] = type;
  std::memcpy(header + 157, link.data(), std::min<size_t>(link.size(), 100));
  std::memcpy(header + 257, "ustar\00000", 8);
  PutOctal(header + 329, 8, major);
  PutOctal(header + 337, 8, minor);
  std::memset(header + 148, ' ', 8);
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  PutOctal(header + 148, 7, sum);
  header[154] = '\0';
  bytes_.append(header, sizeof(header));
  bytes_.append(content.data(), content.size());
  bytes_.resize((bytes_.size() + 511) / 512 * 512, '\0');
  return *this;
}

TarBuilder& TarBuilder::File(absl::string_view name, absl::string_view content, unsigned mode,
                             unsigned uid) {
  return Entry(name, '0', content, "", mode, uid);
}
TarBuilder& TarBuilder::Dir(absl::string_view name, unsigned mode, unsigned uid) {
  return Entry(absl::StrCat(name, "/"), '5', "", "", mode, uid);
}
TarBuilder& TarBuilder::Symlink(absl::string_view name, absl::string_view target) {
  return Entry(name, '2', "", target, 0777, 0);
}
TarBuilder& TarBuilder::HardLink(absl::string_view name, absl::string_view target) {
  return Entry(name, '1', "", target, 0644, 0);
}
TarBuilder& TarBuilder::CharDevice(absl::string_view name, unsigned major, unsigned minor) {
  return Entry(name, '3', "", "", 0644, 0, major, minor);
}
std::string TarBuilder::Done() const { return bytes_ + std::string(1024, '\0'); }

std::string Gzip(absl::string_view data) {
  z_stream stream = {};
  if (deflateInit2(&stream, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK) std::abort();
  std::string out(deflateBound(&stream, data.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(data.data()));
  stream.avail_in = static_cast<uInt>(data.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  if (deflate(&stream, Z_FINISH) != Z_STREAM_END) std::abort();
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string TestImage::id() const { return Sha256(config).ToString(); }
std::string TestImage::manifest_digest() const { return Sha256(manifest).ToString(); }

TestImage MakeImage(const std::vector<std::string>& tars, const TestImageOptions& options) {
  TestImage image;
  std::string diff_ids;
  for (const std::string& tar : tars) {
    absl::StrAppend(&diff_ids, diff_ids.empty() ? "" : ",", "\"", Sha256(tar).ToString(), "\"");
    const std::string type = options.docker_types
                                 ? "application/vnd.docker.image.rootfs.diff.tar.gzip"
                             : options.compress ? "application/vnd.oci.image.layer.v1.tar+gzip"
                                                : "application/vnd.oci.image.layer.v1.tar";
    image.layers.push_back({type, options.compress ? Gzip(tar) : tar});
  }
  image.config =
      absl::StrCat(R"({"os":"linux","architecture":")", options.architecture, R"(","config":)",
                   options.process, R"(,"rootfs":{"type":"layers","diff_ids":[)", diff_ids, "]}}");
  image.manifest_type = options.docker_types ? kDockerManifestType : kOciManifestType;
  RebuildManifest(&image);
  return image;
}

void RebuildManifest(TestImage* image) {
  const bool docker = image->manifest_type == kDockerManifestType;
  std::string layers;
  for (const TestImage::Layer& layer : image->layers) {
    absl::StrAppend(&layers, layers.empty() ? "" : ",",
                    DescriptorJson(layer.media_type, layer.blob));
  }
  image->manifest =
      absl::StrCat(R"({"schemaVersion":2,"mediaType":")", image->manifest_type, R"(","config":)",
                   DescriptorJson(docker ? kDockerConfigType : kOciConfigType, image->config),
                   R"(,"layers":[)", layers, "]}");
}

Digest PutImage(FakeRegistry* registry, const std::string& repository, const std::string& tag,
                const TestImage& image) {
  registry->PutBlob(image.config);
  for (const TestImage::Layer& layer : image.layers) registry->PutBlob(layer.blob);
  return registry->PutManifest(repository, tag, image.manifest_type, image.manifest);
}

std::string MakeIndex(const TestImage& image) {
  const std::string other = "{}";
  return absl::StrCat(
      R"({"schemaVersion":2,"mediaType":")", kOciIndexType, R"(","manifests":[)",
      DescriptorJson(kOciManifestType, other,
                     R"(,"platform":{"os":"linux","architecture":"s390x"})"),
      ",",
      DescriptorJson(kOciManifestType, other,
                     R"(,"platform":{"os":"unknown","architecture":"unknown"},"annotations":)"
                     R"({"vnd.docker.reference.type":"attestation-manifest"})"),
      ",",
      DescriptorJson(image.manifest_type, image.manifest,
                     R"(,"platform":{"os":"linux","architecture":"amd64"})"),
      "]}");
}

}  // namespace davit::images::testing
