#ifndef DAVIT_SANDBOX_CNI_RESULT_H_
#define DAVIT_SANDBOX_CNI_RESULT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::sandbox::cni {

// The addresses of the pod in what the last plugin of an ADD printed: plain, without prefix length,
// in their order. Reads the forms of all versions: "ips" (0.3.0 and newer; an address of an
// interface on the host's side is left out) and "ip4"/"ip6" (0.1.0, 0.2.0).
// InvalidArgument for what is not a result, or holds something that is no address.
absl::StatusOr<std::vector<std::string>> ParseResultIps(absl::string_view json);

}  // namespace davit::sandbox::cni

#endif  // DAVIT_SANDBOX_CNI_RESULT_H_
