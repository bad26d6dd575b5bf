#include "images/unpack/beneath.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <sys/syscall.h>

#include <cerrno>

namespace davit::images::unpack {
namespace {

// A rename or mount anywhere on the system can make a scoped lookup answer EAGAIN; it passes.
constexpr int kMaxRetries = 1000;

}  // namespace

sys::UniqueFd OpenBeneath(int dirfd, absl::string_view path, int flags) {
  const std::string name = path.empty() ? "." : std::string(path);
  open_how how{};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  for (int attempt = 0;; ++attempt) {
    const long fd = syscall(SYS_openat2, dirfd, name.c_str(), &how, sizeof how);
    if (fd >= 0) return sys::UniqueFd(static_cast<int>(fd));
    if (errno == EINTR) continue;
    if (errno != EAGAIN || attempt >= kMaxRetries) return sys::UniqueFd();
    sched_yield();
  }
}

}  // namespace davit::images::unpack
