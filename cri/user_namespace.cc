#include "cri/user_namespace.h"

#include "absl/strings/str_cat.h"
#include "proto/api.pb.h"
#include "runtime/spec/id_mapping.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using Mappings = std::vector<runtime::spec::IdMapping>;

absl::Status Invalid(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("userns_options: ", why));
}

absl::StatusOr<Mappings> PodMappings(
    const char* field, const google::protobuf::RepeatedPtrField<v1::IDMapping>& mappings) {
  if (mappings.size() != 1) {
    return Invalid(absl::StrCat(field, " has ", mappings.size(), " mappings, not exactly one"));
  }
  absl::StatusOr<Mappings> translated = TranslateMappings(mappings);
  if (!translated.ok()) return Invalid(absl::StrCat(field, ": ", translated.status().message()));
  if ((*translated)[0].container_id != 0) {
    return Invalid(absl::StrCat(field, ": the mapping does not begin with container id 0"));
  }
  return translated;
}

}  // namespace

absl::StatusOr<Mappings> TranslateMappings(
    const google::protobuf::RepeatedPtrField<v1::IDMapping>& mappings) {
  Mappings translated;
  for (const v1::IDMapping& mapping : mappings) {
    translated.push_back({mapping.container_id(), mapping.host_id(), mapping.length()});
  }
  if (!translated.empty()) DAVIT_RETURN_IF_ERROR(runtime::spec::CheckMappings(translated));
  return translated;
}

absl::StatusOr<UserNamespace> TranslateUserNamespace(const v1::NamespaceOption& options) {
  UserNamespace result;
  if (!options.has_userns_options()) return result;
  const v1::UserNamespace& userns = options.userns_options();
  switch (userns.mode()) {
    case v1::NODE:
      if (userns.uids().empty() && userns.gids().empty()) return result;
      return Invalid("the node's user namespace cannot have mappings");
    case v1::POD:
      break;
    default:
      return Invalid(absl::StrCat("mode ", static_cast<int>(userns.mode()), " is not possible"));
  }
  DAVIT_ASSIGN_OR_RETURN(result.uids, PodMappings("uids", userns.uids()));
  DAVIT_ASSIGN_OR_RETURN(result.gids, PodMappings("gids", userns.gids()));
  if (!runtime::spec::SameMappings(result.uids, result.gids)) {
    return Invalid("the mappings of uids and gids differ");
  }
  return result;
}

absl::Status CheckContainerUserNamespace(const v1::NamespaceOption& container,
                                         const v1::NamespaceOption& pod) {
  if (!container.has_userns_options()) return absl::OkStatus();
  DAVIT_ASSIGN_OR_RETURN(const UserNamespace own, TranslateUserNamespace(container));
  DAVIT_ASSIGN_OR_RETURN(const UserNamespace pods, TranslateUserNamespace(pod));
  if (runtime::spec::SameMappings(own.uids, pods.uids)) return absl::OkStatus();
  return Invalid("the container's differ from those of its pod");
}

}  // namespace davit::cri
