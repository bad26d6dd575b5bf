#ifndef DAVIT_IMAGES_TESTING_TEST_IMAGE_H_
#define DAVIT_IMAGES_TESTING_TEST_IMAGE_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "images/testing/fake_registry.h"

namespace davit::images::testing {

// Builds a ustar archive entry by entry.
class TarBuilder {
 public:
  TarBuilder& File(absl::string_view name, absl::string_view content, unsigned mode = 0644,
                   unsigned uid = 0);
  TarBuilder& Dir(absl::string_view name, unsigned mode = 0755, unsigned uid = 0);
  TarBuilder& Symlink(absl::string_view name, absl::string_view target);
  TarBuilder& HardLink(absl::string_view name, absl::string_view target);
  TarBuilder& CharDevice(absl::string_view name, unsigned major, unsigned minor);
  // With the end mark.
  std::string Done() const;

 private:
  TarBuilder& Entry(absl::string_view name, char type, absl::string_view content,
                    absl::string_view link, unsigned mode, unsigned uid, unsigned major = 0,
                    unsigned minor = 0);
  std::string bytes_;
};

std::string Gzip(absl::string_view data);

// An image as a registry would serve it.
struct TestImage {
  struct Layer {
    std::string media_type;
    std::string blob;
  };
  std::string config;
  std::string manifest;
  std::string manifest_type;
  std::vector<Layer> layers;

  std::string id() const;  // the config's digest
  std::string manifest_digest() const;
};

struct TestImageOptions {
  std::string process = R"({"Cmd":["/bin/sh"]})";  // the config's "config"
  std::string architecture = "amd64";
  bool docker_types = false;
  bool compress = true;
};

TestImage MakeImage(const std::vector<std::string>& tars, const TestImageOptions& options = {});
// Makes the manifest anew after `config` or `layers` were changed.
void RebuildManifest(TestImage* image);

// Under its digest and `tag`; returns the manifest's digest.
Digest PutImage(FakeRegistry* registry, const std::string& repository, const std::string& tag,
                const TestImage& image);

// An index of one image for amd64, one for another architecture and an attestation.
std::string MakeIndex(const TestImage& image);

}  // namespace davit::images::testing

#endif  // DAVIT_IMAGES_TESTING_TEST_IMAGE_H_
