#ifndef DAVIT_CRI_USER_NAMESPACE_H_
#define DAVIT_CRI_USER_NAMESPACE_H_

#include <google/protobuf/repeated_field.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"

namespace runtime::v1 {
class IDMapping;
class NamespaceOption;
}  // namespace runtime::v1

// What CRI says of user namespaces. Pure and thread-safe.
namespace davit::cri {

struct UserNamespace {
  std::vector<runtime::spec::IdMapping> uids;  // empty: the node's user namespace
  std::vector<runtime::spec::IdMapping> gids;
};

// Of a pod. InvalidArgument: a mode other than POD and NODE, mappings with NODE; with POD anything
// but one mapping of user ids and the same one of group ids, from container id 0 on (what the
// kubelet sends; anything else would have to be tried with every file system).
absl::StatusOr<UserNamespace> TranslateUserNamespace(const ::runtime::v1::NamespaceOption& options);

// A container that says anything has to say what its pod said: it cannot have another one.
absl::Status CheckContainerUserNamespace(const ::runtime::v1::NamespaceOption& container,
                                         const ::runtime::v1::NamespaceOption& pod);

// Of a mount or a pod. InvalidArgument as spec::CheckMappings; an empty list is fine.
absl::StatusOr<std::vector<runtime::spec::IdMapping>> TranslateMappings(
    const google::protobuf::RepeatedPtrField<::runtime::v1::IDMapping>& mappings);

}  // namespace davit::cri

#endif  // DAVIT_CRI_USER_NAMESPACE_H_
