#include "cri/helpers.h"

#include <limits.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

absl::StatusOr<std::string> OwnDirectory() {
  char path[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof(path));
  if (length < 0) return sys::ErrnoStatus(errno, "readlink /proc/self/exe");
  const std::string executable(path, static_cast<size_t>(length));
  return executable.substr(0, executable.rfind('/'));
}

absl::StatusOr<std::string> Find(const char* name, const std::vector<std::string>& places) {
  for (const std::string& place : places) {
    const std::string path = absl::StrCat(place, "/", name);
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return absl::NotFoundError(absl::StrCat("the helper program ", name, " is not in ",
                                          absl::StrJoin(places, " or "),
                                          "; set helper_dir in the configuration"));
}

}  // namespace

absl::StatusOr<Helpers> FindHelpers(const std::string& helper_dir) {
  std::vector<std::string> places = {helper_dir};
  if (helper_dir.empty()) {
    DAVIT_ASSIGN_OR_RETURN(const std::string own, OwnDirectory());
    places = {own, "/usr/libexec/davit"};
  }
  Helpers helpers;
  DAVIT_ASSIGN_OR_RETURN(helpers.pod, Find("davit-pod", places));
  DAVIT_ASSIGN_OR_RETURN(helpers.init, Find("davit-init", places));
  DAVIT_ASSIGN_OR_RETURN(helpers.unpack, Find("davit-unpack", places));
  return helpers;
}

}  // namespace davit::cri
