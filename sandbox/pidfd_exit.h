#ifndef DAVIT_SANDBOX_PIDFD_EXIT_H_
#define DAVIT_SANDBOX_PIDFD_EXIT_H_

#include <optional>

namespace davit::sandbox {

// The wait status (man 2 waitpid) of the process behind a pidfd, which need not be a child of ours,
// once it has been reaped by whoever is its parent: PIDFD_GET_INFO with exit information, kernel
// >= 6.15. Nothing on an older kernel, and while the process lives or is a zombie. Thread-safe.
std::optional<int> ExitStatusOf(int pidfd);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_PIDFD_EXIT_H_
