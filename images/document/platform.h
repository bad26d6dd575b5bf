#ifndef DAVIT_IMAGES_DOCUMENT_PLATFORM_H_
#define DAVIT_IMAGES_DOCUMENT_PLATFORM_H_

#include <string>
#include <vector>

namespace davit::images {

// What an index entry or an image config says it runs on (image-spec image-index.md, "platform").
struct Platform {
  std::string os;
  std::string architecture;
  std::string variant;
  std::vector<std::string> os_features;

  friend bool operator==(const Platform&, const Platform&) = default;
};

// The machine that this program runs on, with the amd64 level that its CPU reaches ("v1".."v4").
Platform HostPlatform();

// One spelling for each: x86_64 is amd64, aarch64 is arm64 (where v8 is no variant), armhf is
// arm v7, armel is arm v6, i386 is 386.
Platform Normalised(Platform platform);

// How well `host` runs `candidate`: 0 if it cannot, else the larger the better (the exact variant
// first, then lower ones). An operating-system feature that is asked for and that is not known
// here rules the candidate out.
int PlatformRank(const Platform& host, const Platform& candidate);

std::string PlatformName(const Platform& platform);  // "linux/arm/v7"

}  // namespace davit::images

#endif  // DAVIT_IMAGES_DOCUMENT_PLATFORM_H_
