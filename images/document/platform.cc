#include "images/document/platform.h"

#include <sys/utsname.h>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace davit::images {
namespace {

#if defined(__x86_64__)
std::string Amd64Level() {
  __builtin_cpu_init();
  // The features that tell the levels apart (x86-64 psABI, "Micro-Architecture Levels"); those that
  // are left out never come without these.
  if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt")) return "v1";
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi2") ||
      !__builtin_cpu_supports("fma")) {
    return "v2";
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return "v3";
  }
  return "v4";
}
#endif

// "v7" -> 7; -1 if it is not a plain level.
int Level(const std::string& variant) {
  if (variant.size() != 2 || variant[0] != 'v' || !absl::ascii_isdigit(variant[1])) return -1;
  return variant[1] - '0';
}

}  // namespace

Platform HostPlatform() {
  Platform host;
  host.os = "linux";
#if defined(__x86_64__)
  host.architecture = "amd64";
  host.variant = Amd64Level();
#else
  utsname name;
  if (uname(&name) == 0) host.architecture = name.machine;
  host = Normalised(host);
#endif
  return host;
}

Platform Normalised(Platform platform) {
  platform.os = absl::AsciiStrToLower(platform.os);
  platform.variant = absl::AsciiStrToLower(platform.variant);
  std::string& architecture = platform.architecture;
  architecture = absl::AsciiStrToLower(architecture);
  if (architecture == "x86_64" || architecture == "x86-64") architecture = "amd64";
  if (architecture == "aarch64") architecture = "arm64";
  if (architecture == "i386" || architecture == "i686") architecture = "386";
  if (architecture == "armhf" || architecture == "armel") {
    platform.variant = architecture == "armhf" ? "v7" : "v6";
    architecture = "arm";
  }
  if (absl::StartsWith(architecture, "armv") && architecture.size() > 4) {
    platform.variant = absl::StrCat("v", architecture.substr(4, 1));
    architecture = "arm";
  }
  if (!platform.variant.empty() && absl::ascii_isdigit(platform.variant[0])) {
    platform.variant = absl::StrCat("v", platform.variant);
  }
  if (architecture == "arm64" && platform.variant == "v8") platform.variant.clear();
  if (architecture == "arm" && platform.variant.empty()) platform.variant = "v7";
  if (architecture == "amd64" && platform.variant.empty()) platform.variant = "v1";
  return platform;
}

int PlatformRank(const Platform& host_platform, const Platform& candidate_platform) {
  const Platform host = Normalised(host_platform);
  const Platform candidate = Normalised(candidate_platform);
  if (candidate.os != host.os || candidate.architecture != host.architecture) return 0;
  if (!candidate.os_features.empty()) return 0;
  if (candidate.variant == host.variant) return 100;
  if (candidate.architecture == "amd64" || candidate.architecture == "arm") {
    const int want = Level(candidate.variant);
    const int have = Level(host.variant);
    return want > 0 && want <= have ? want : 0;
  }
  // arm64 says more than v8 only through features that this program does not probe for; the other
  // architectures' variants are baselines that cannot be compared.
  return candidate.variant.empty() ? 1 : 0;
}

std::string PlatformName(const Platform& platform) {
  std::string name = absl::StrCat(platform.os, "/", platform.architecture);
  if (!platform.variant.empty()) absl::StrAppend(&name, "/", platform.variant);
  return name;
}

}  // namespace davit::images
