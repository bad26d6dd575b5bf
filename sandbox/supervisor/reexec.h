#ifndef DAVIT_SANDBOX_SUPERVISOR_REEXEC_H_
#define DAVIT_SANDBOX_SUPERVISOR_REEXEC_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "sandbox/supervisor/descriptors.h"

// How the program of a process is replaced while everything that it holds stays. The new program is
// run twice, with the same descriptors: `davit-pod NAME --check N` in a child, which does all that
// can fail, says whether it could, and ends; then `davit-pod NAME --resume N` in this process. N is
// the descriptor of the state.
namespace davit::sandbox {

inline constexpr char kCheckArgument[] = "--check";
inline constexpr char kResumeArgument[] = "--resume";
// What a program writes to its stdout when it can take over; then it ends with 0. It is also what a
// program is known by before it is run at all: one that has never heard of all this would take the
// descriptors for something else.
inline constexpr char kCanTakeOver[] = "davit-pod: can take over";

// FailedPrecondition or InvalidArgument unless `fd` is a memfd that nobody can change any more, and
// its content is a davit-pod that can take over a state.
absl::Status CheckProgram(int fd);

// Replaces this process's program. Returns only if that failed, with why; everything is then as it
// was. The calling thread is the only one that is not at rest. `name` is the process's first
// argument; `patience` bounds the check.
absl::Status ReplaceProgram(int program, int state, const SavedDescriptors& descriptors,
                            const std::string& name, absl::Duration patience);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_REEXEC_H_
