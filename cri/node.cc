#include "cri/node.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/capability.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::cri {

absl::StatusOr<Node> InspectNode(sys::KernelFeatures features) {
  Node node;
  node.features = std::move(features);
  DAVIT_ASSIGN_OR_RETURN(const uint64_t permitted, sys::PermittedCapabilities());
  DAVIT_ASSIGN_OR_RETURN(const uint64_t bounding, sys::BoundingCapabilities());
  node.capabilities = permitted & bounding;
  if ((permitted & sys::CapabilityBit(CAP_SYS_RESOURCE)) == 0) {
    DAVIT_ASSIGN_OR_RETURN(const std::string text,
                           sys::ReadFileAt(AT_FDCWD, "/proc/self/oom_score_adj", 64));
    if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(text), &node.oom_score_adj_floor)) {
      return absl::InternalError(absl::StrCat("/proc/self/oom_score_adj says \"", text, "\""));
    }
  }
  char name[HOST_NAME_MAX + 1] = {};
  if (::gethostname(name, sizeof(name) - 1) != 0) return sys::ErrnoStatus(errno, "gethostname");
  node.hostname = name;
  return node;
}

}  // namespace davit::cri
