#ifndef DAVIT_IMAGES_UNPACK_SANDBOX_H_
#define DAVIT_IMAGES_UNPACK_SANDBOX_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/sys/unique_fd.h"

// What confines davit-unpack. Called once, in this order, by a process that has read nothing
// hostile yet. Each step fails closed.
namespace davit::images::unpack {

// Makes the directory behind `staging_fd` the only thing this process can see: a mount namespace of
// its own whose root is that directory (nosuid, nodev, noexec, links followed by nobody), the old
// root detached. Lowers the process to nice 10, an address space of 1 GiB, 1024 descriptors and no
// core dumps; makes it non-dumpable; sets no_new_privs and an umask of 0; drops every capability
// but CHOWN, FOWNER, FSETID, DAC_OVERRIDE and SETFCAP, from all sets. Returns the new root,
// O_RDONLY. Call while single-threaded. Needs CAP_SYS_ADMIN; kernel >= 5.14.
absl::StatusOr<sys::UniqueFd> Confine(int staging_fd);

// Allows, for all threads of the process, what writing files and talking on an open socket needs,
// and no more: no new process or thread, no exec, no socket, no mount, no executable memory, no
// node but a FIFO. Everything else fails with EPERM.
absl::Status RestrictSystemCalls();

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_SANDBOX_H_
