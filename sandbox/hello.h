#ifndef DAVIT_SANDBOX_HELLO_H_
#define DAVIT_SANDBOX_HELLO_H_

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/unique_fd.h"

// What davitd says first on a connection to a supervisor, and what it makes of the answer.
namespace davit::sandbox {

// Asks for the containers whose ids come after `after_container`; "": for all.
supervisor::v1::ToSupervisor HelloRequest(const std::string& after_container = "");

// The descriptors of a reply by their container's id. DataLoss for a reply that does not fit its
// descriptors, or that would have its reader ask for ever.
absl::StatusOr<std::map<std::string, sys::UniqueFd>> PidfdsOf(
    const supervisor::v1::HelloReply& reply, const std::string& after_container,
    std::vector<sys::UniqueFd> fds);

// A pidfd of `pid`, from a source that has no pidfd to give: an older supervisor, a status record.
// The number may be another process's by now, so the process has to be in `group` (a path beneath
// each hierarchy's mount point). None otherwise.
sys::UniqueFd OpenMember(pid_t pid, const std::string& group);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_HELLO_H_
