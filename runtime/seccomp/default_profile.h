#ifndef DAVIT_RUNTIME_SECCOMP_DEFAULT_PROFILE_H_
#define DAVIT_RUNTIME_SECCOMP_DEFAULT_PROFILE_H_

#include <cstdint>

#include "runtime/spec/spec.h"

namespace davit::runtime::seccomp {

// The profile behind SecurityProfile RuntimeDefault: a list of the system calls that ordinary
// programs need, EPERM for everything else. At least as strict as Docker's and containerd's
// defaults. System calls that belong to a capability are allowed only with that capability in
// `capabilities` (the container's effective set, bit N for capability N), and only then.
// Pure; takes microseconds.
spec::Seccomp DefaultProfile(uint64_t capabilities);

}  // namespace davit::runtime::seccomp

#endif  // DAVIT_RUNTIME_SECCOMP_DEFAULT_PROFILE_H_
