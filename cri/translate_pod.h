#ifndef DAVIT_CRI_TRANSLATE_POD_H_
#define DAVIT_CRI_TRANSLATE_POD_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sandbox/manager.h"

namespace runtime::v1 {
class PodSandboxConfig;
class PodSandboxMetadata;
}  // namespace runtime::v1

namespace davit::cri {

// The one runtime handler, beside "" which means it.
inline constexpr char kRuntimeHandler[] = "davit";
absl::Status CheckRuntimeHandler(absl::string_view handler);

struct PodOptions {
  bool unprivileged_ports = true;
  bool unprivileged_icmp = true;
  absl::Status user_namespaces;  // else why pods cannot have them on this node
};

// A pod as CRI describes it -> as the manager makes it. Pure and thread-safe.
// InvalidArgument names the field: missing metadata, an unknown handler, modes that a pod cannot
// have, ports and addresses out of range. What only the sandbox layer knows (DNS syntax, sysctls
// that would change the node) it checks itself.
absl::StatusOr<sandbox::PodSpec> TranslatePod(const ::runtime::v1::PodSandboxConfig& config,
                                              absl::string_view runtime_handler,
                                              const PodOptions& options);

// "name_namespace_uid_attempt"
std::string PodKey(const ::runtime::v1::PodSandboxMetadata& metadata);

}  // namespace davit::cri

#endif  // DAVIT_CRI_TRANSLATE_POD_H_
