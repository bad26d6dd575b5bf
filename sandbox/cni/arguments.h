#ifndef DAVIT_SANDBOX_CNI_ARGUMENTS_H_
#define DAVIT_SANDBOX_CNI_ARGUMENTS_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "sandbox/cni/network.h"

// What the runtime tells plugins about a pod. Pure.
namespace davit::sandbox::cni {

// Checks the id, interface, and path of a request. InvalidArgument.
absl::Status CheckRequest(const Request& request);

// True for what CNI_CONTAINERID may be: [a-zA-Z0-9][a-zA-Z0-9_.-]*, at most 128 bytes.
bool IsContainerId(absl::string_view id);

// CNI_ARGS: "IgnoreUnknown=1;K8S_POD_NAMESPACE=...;..." . InvalidArgument for values with ';'.
absl::StatusOr<std::string> MakeCniArgs(const Request& request);

// The capability arguments as a JSON object: portMappings, bandwidth, dns and
// io.kubernetes.cri.pod-annotations, each only where the request has something to say.
// InvalidArgument for annotations that are no quantity.
absl::StatusOr<std::string> MakeCapabilityArgs(const Request& request);

// A Kubernetes quantity ("10M", "1.5Gi", "1e6") as a whole number, rounded up. InvalidArgument.
absl::StatusOr<uint64_t> ParseQuantity(absl::string_view text);

// What a plugin reads on stdin: its configuration with the list's name and version, the previous
// result unless "", and of the capability arguments those that it declares.
absl::StatusOr<std::string> MakePluginInput(absl::string_view plugin_json, absl::string_view name,
                                            absl::string_view cni_version,
                                            absl::string_view capability_args,
                                            absl::string_view previous_result);

}  // namespace davit::sandbox::cni

#endif  // DAVIT_SANDBOX_CNI_ARGUMENTS_H_
