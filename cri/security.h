#ifndef DAVIT_CRI_SECURITY_H_
#define DAVIT_CRI_SECURITY_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/spec/spec.h"

namespace davit::cri {

// CRI's SecurityProfile.
struct ProfileRequest {
  enum class Kind { kRuntimeDefault, kUnconfined, kLocalhost };
  Kind kind = Kind::kUnconfined;
  std::string localhost;  // seccomp: absolute path of a profile; AppArmor: name of one
};

// The deprecated string forms: "", "unconfined", "runtime/default", "docker/default",
// "localhost/<ref>". InvalidArgument for anything else.
absl::StatusOr<ProfileRequest> ParseProfileName(absl::string_view name);

// The seccomp filter of a container; empty for none. A localhost profile is a JSON file with the
// `linux.seccomp` object of config.json, of at most 1 MiB: NotFound, or InvalidArgument that names
// the file. `capabilities`: the container's effective set. Reads the file; thread-safe.
absl::StatusOr<std::optional<runtime::spec::Seccomp>> BuildSeccomp(const ProfileRequest& request,
                                                                   bool privileged,
                                                                   uint64_t capabilities);

// The AppArmor profile to run under, "" for none. A profile asked for by name that cannot be
// applied is an error (FailedPrecondition without AppArmor in this kernel, NotFound if it is not
// loaded), never a silent nothing.
absl::StatusOr<std::string> ChooseAppArmor(const std::optional<ProfileRequest>& request,
                                           bool privileged, bool kernel_has_apparmor);

// A masked or read-only path: absolute, without ".." or NUL. InvalidArgument.
absl::Status CheckProtectedPath(absl::string_view path);

}  // namespace davit::cri

#endif  // DAVIT_CRI_SECURITY_H_
