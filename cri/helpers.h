#ifndef DAVIT_CRI_HELPERS_H_
#define DAVIT_CRI_HELPERS_H_

#include <string>

#include "absl/status/statusor.h"

namespace davit::cri {

// Paths of the programs that davitd starts.
struct Helpers {
  std::string pod;     // davit-pod
  std::string init;    // davit-init
  std::string unpack;  // davit-unpack
};

// Looks for all three in `helper_dir`; if that is "", beside davitd's own executable, then in
// /usr/libexec/davit. NotFound names the file and the places.
absl::StatusOr<Helpers> FindHelpers(const std::string& helper_dir);

}  // namespace davit::cri

#endif  // DAVIT_CRI_HELPERS_H_
