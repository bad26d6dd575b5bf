#include "cri/security.h"

#include <fcntl.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/seccomp/default_profile.h"
#include "runtime/spec/parse.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

constexpr size_t kMaxProfile = 1 << 20;
constexpr size_t kMaxAppArmorList = 4 << 20;
constexpr char kLoadedProfiles[] = "/sys/kernel/security/apparmor/profiles";

absl::StatusOr<runtime::spec::Seccomp> LoadSeccomp(const std::string& path) {
  if (!absl::StartsWith(path, "/")) {
    return absl::InvalidArgumentError(absl::StrCat("seccomp profile \"",
                                                   absl::string_view(path).substr(0, 256),
                                                   "\" is not an absolute path"));
  }
  absl::StatusOr<std::string> text = sys::ReadFileAt(AT_FDCWD, path, kMaxProfile);
  if (!text.ok()) return sys::Annotate(text.status(), "seccomp profile");
  // The strict parser of config.json, around just this part of one.
  const absl::StatusOr<runtime::spec::Spec> spec = runtime::spec::ParseSpec(absl::StrCat(
      R"({"ociVersion":"1.2.0","root":{"path":"/"},"linux":{"seccomp":)", *text, "}}"));
  if (!spec.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("seccomp profile ", path, ": ", spec.status().message()));
  }
  if (!spec->linux_.seccomp) {
    return absl::InvalidArgumentError(absl::StrCat("seccomp profile ", path, " is empty"));
  }
  return *spec->linux_.seccomp;
}

// Lines such as "name (enforce)".
absl::Status CheckLoaded(const std::string& profile) {
  DAVIT_ASSIGN_OR_RETURN(const std::string list,
                         sys::ReadFileAt(AT_FDCWD, kLoadedProfiles, kMaxAppArmorList));
  for (const absl::string_view line : absl::StrSplit(list, '\n')) {
    if (line.substr(0, line.rfind(" (")) == profile) return absl::OkStatus();
  }
  return absl::NotFoundError(absl::StrCat("AppArmor profile \"", profile, "\" is not loaded"));
}

}  // namespace

absl::StatusOr<ProfileRequest> ParseProfileName(absl::string_view name) {
  if (name.empty() || name == "unconfined") return ProfileRequest{};
  if (name == "runtime/default" || name == "docker/default") {
    return ProfileRequest{ProfileRequest::Kind::kRuntimeDefault, ""};
  }
  if (absl::ConsumePrefix(&name, "localhost/") && !name.empty()) {
    return ProfileRequest{ProfileRequest::Kind::kLocalhost, std::string(name)};
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown security profile \"", name.substr(0, 256), "\""));
}

absl::StatusOr<std::optional<runtime::spec::Seccomp>> BuildSeccomp(const ProfileRequest& request,
                                                                   bool privileged,
                                                                   uint64_t capabilities) {
  std::optional<runtime::spec::Seccomp> none;
  if (privileged) return none;
  switch (request.kind) {
    case ProfileRequest::Kind::kUnconfined:
      return none;
    case ProfileRequest::Kind::kRuntimeDefault:
      return std::optional(runtime::seccomp::DefaultProfile(capabilities));
    case ProfileRequest::Kind::kLocalhost:
      break;
  }
  DAVIT_ASSIGN_OR_RETURN(runtime::spec::Seccomp seccomp, LoadSeccomp(request.localhost));
  return std::optional(std::move(seccomp));
}

absl::StatusOr<std::string> ChooseAppArmor(const std::optional<ProfileRequest>& request,
                                           bool privileged, bool kernel_has_apparmor) {
  if (privileged || !request || request->kind != ProfileRequest::Kind::kLocalhost) return "";
  const std::string& profile = request->localhost;
  if (profile.empty() || profile.find('\n') != std::string::npos ||
      profile.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("the name of the AppArmor profile is missing or malformed");
  }
  if (!kernel_has_apparmor) {
    return absl::FailedPreconditionError(absl::StrCat(
        "AppArmor profile \"", profile, "\" is asked for, but AppArmor is not on in this kernel"));
  }
  DAVIT_RETURN_IF_ERROR(CheckLoaded(profile));
  return profile;
}

absl::Status CheckProtectedPath(absl::string_view path) {
  if (!absl::StartsWith(path, "/") || absl::StrContains(path, "/../") ||
      absl::EndsWith(path, "/..") || path.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("masked or read-only path \"",
                                                   path.substr(0, 256),
                                                   "\" is not an absolute path without \"..\""));
  }
  return absl::OkStatus();
}

}  // namespace davit::cri
