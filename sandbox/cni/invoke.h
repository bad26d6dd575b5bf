#ifndef DAVIT_SANDBOX_CNI_INVOKE_H_
#define DAVIT_SANDBOX_CNI_INVOKE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace davit::sandbox::cni {

// One run of a plugin (CNI specification, section 2).
struct Invocation {
  std::string plugin;                 // file name, looked for in bin_dirs
  std::vector<std::string> bin_dirs;  // CNI_PATH too
  std::string command;                // "ADD", "DEL", "CHECK"
  std::string container_id;
  std::string netns;  // "" = gone (DEL only)
  std::string interface;
  std::string args;   // CNI_ARGS
  std::string input;  // the plugin's configuration, JSON
  int lock_fd = -1;   // inherited as descriptor 3, so that a lock on it lasts as long as the plugin
  absl::Time deadline;  // then its process group is killed
};

// Runs the plugin and returns what it printed on stdout (JSON for ADD, else usually nothing).
// The plugin gets the CNI_ variables, a standard PATH and nothing else; when it has exited,
// whatever it left in its process group is killed. FailedPrecondition: no such plugin in bin_dirs.
// DeadlineExceeded: killed at the deadline. ResourceExhausted: it printed more than 1 MiB.
// Otherwise a failure carries the plugin's own message (or the end of its stderr) with code
// Internal, or Unavailable for the specification's "try again later" (11). Blocks. Thread-safe.
absl::StatusOr<std::string> Invoke(const Invocation& invocation);

// Full path of a plugin's program. FailedPrecondition if no directory has it.
absl::StatusOr<std::string> FindPlugin(const std::string& plugin,
                                       const std::vector<std::string>& bin_dirs);

}  // namespace davit::sandbox::cni

#endif  // DAVIT_SANDBOX_CNI_INVOKE_H_
