#ifndef DAVIT_SANDBOX_LOCK_H_
#define DAVIT_SANDBOX_LOCK_H_

#include <string>

#include "absl/status/statusor.h"
#include "runtime/sys/unique_fd.h"

namespace davit::sandbox {

// Makes this process the only one that works on `directory` (which must exist): an exclusive
// flock(2) on <directory>/davitd.lock, held for as long as the descriptor lives. The kernel lets go
// of it with the process, so that a killed daemon never keeps the next one out; where a child that
// it was just starting still has a copy, that is waited for. The file holds the
// holder's pid in decimal, for people and for the message below.
// FailedPrecondition, naming the holder's pid, while another process has it; and for a file of that
// name that holds something else.
absl::StatusOr<sys::UniqueFd> LockDirectory(const std::string& directory);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_LOCK_H_
