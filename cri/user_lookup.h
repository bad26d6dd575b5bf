#ifndef DAVIT_CRI_USER_LOOKUP_H_
#define DAVIT_CRI_USER_LOOKUP_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::cri {

// Who a container's process is asked to run as.
struct UserRequest {
  std::optional<int64_t> run_as_user;
  std::optional<int64_t> run_as_group;
  std::string run_as_username;  // wins over run_as_user
  std::string image_user;       // the image's "user[:group]", used if neither is given
  std::vector<int64_t> supplemental_groups;
  bool strict_groups = false;  // SupplementalGroupsPolicy Strict: none from the image's /etc/group
};

struct ResolvedUser {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;  // the primary group first, no duplicates
  std::string home;              // "/" if /etc/passwd has no entry
};

// Decides by the contents of the image's /etc/passwd and /etc/group ("" if it has none), which are
// untrusted: broken lines are passed over. Digits are always an id, never a name, so that an entry
// called "1000" with uid 0 gets nobody root (CVE-2016-3697); ids above 2^31-1 are refused instead
// of wrapping around to root (CVE-2024-40635). InvalidArgument: a group without a user, an id out
// of range, a name that the image does not know. Pure and thread-safe.
absl::StatusOr<ResolvedUser> ResolveUser(const UserRequest& request, absl::string_view passwd,
                                         absl::string_view group);

}  // namespace davit::cri

#endif  // DAVIT_CRI_USER_LOOKUP_H_
