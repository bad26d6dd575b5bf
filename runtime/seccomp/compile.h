#ifndef DAVIT_RUNTIME_SECCOMP_COMPILE_H_
#define DAVIT_RUNTIME_SECCOMP_COMPILE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/spec/spec.h"

namespace davit::runtime::seccomp {

// What the kernel is given: seccomp(SECCOMP_SET_MODE_FILTER, flags, {bpf.size() / 8, bpf.data()}).
struct Program {
  std::string bpf;        // struct sock_filter, 8 bytes each, host byte order
  uint32_t flags = 0;     // SECCOMP_FILTER_FLAG_*: LOG, SPEC_ALLOW, TSYNC, WAIT_KILLABLE_RECV
  bool notifies = false;  // has SCMP_ACT_NOTIFY: install with SECCOMP_FILTER_FLAG_NEW_LISTENER
};

// Compiles an OCI profile (runtime-spec config-linux.md, seccomp) with libseccomp. Takes
// milliseconds and hundreds of kilobytes of heap: go through ProgramCache. Thread-safe.
//
// * All actions, operators and architectures of the specification. No architectures: the native
//   one. Architectures that this libseccomp does not know are InvalidArgument.
// * Unknown system call names are ignored, as the specification says. Rules whose action is the
//   default one change nothing and are left out.
// * errnoRet absent is EPERM; with an action that takes none it is InvalidArgument. The same for
//   defaultErrnoRet.
// * A profile that names a flag the kernel does not know fails when it is installed: protection is
//   never dropped silently.
// * System calls newer than the profile: a profile whose default action is SCMP_ACT_ERRNO answers
//   ENOSYS instead of the default for every number above the highest that it names for the
//   architecture (and, on x86, outside of the x32 range): C libraries take EPERM from a call that
//   they try first (clone3, faccessat2) for a refusal, and ENOSYS for "use the older call". Numbers
//   that did not exist when the profile was written cannot have been refused on purpose. The
//   result is never weaker: the call does not happen either way.
absl::StatusOr<Program> Compile(const spec::Seccomp& profile);

}  // namespace davit::runtime::seccomp

#endif  // DAVIT_RUNTIME_SECCOMP_COMPILE_H_
