#ifndef DAVIT_SANDBOX_SUPERVISOR_DESCRIPTORS_H_
#define DAVIT_SANDBOX_SUPERVISOR_DESCRIPTORS_H_

#include <cstdint>
#include <map>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/unique_fd.h"

// Descriptors that stay open, under their numbers, when a supervisor's program is replaced in place
// (proto/upgrade.proto). Not thread-safe.
namespace davit::sandbox {

// The old program's side: collects what is to survive. The descriptors stay their owners'.
class SavedDescriptors {
 public:
  explicit SavedDescriptors(upgrade::v1::SupervisorState* state) : state_(state) {}

  // Notes a descriptor and returns its number, for the field that refers to it: 0 for none (-1).
  uint32_t Add(int fd);
  uint32_t Add(const sys::UniqueFd& fd) { return Add(fd.get()); }

  // Lets all that were added survive execve, or (`keep` false, when it has failed) none.
  absl::Status KeepOverExec(bool keep) const;

 private:
  upgrade::v1::SupervisorState* const state_;
};

// The new program's side: hands each descriptor to its new owner, once. What nobody has taken is
// closed with the object.
class InheritedDescriptors {
 public:
  // Checks that each number is open and is the file that it was, and makes all of them close on
  // the next execve. InvalidArgument names the one that is not.
  static absl::StatusOr<InheritedDescriptors> Check(const upgrade::v1::SupervisorState& state);

  // 0: none, an empty one. InvalidArgument for a number that was not handed on, or is taken.
  absl::StatusOr<sys::UniqueFd> Take(uint32_t number);
  // The same for descriptors that there has to be.
  absl::StatusOr<sys::UniqueFd> TakeNeeded(uint32_t number, const char* what);

 private:
  std::map<uint32_t, sys::UniqueFd> descriptors_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_DESCRIPTORS_H_
