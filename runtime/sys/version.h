#ifndef DAVIT_RUNTIME_SYS_VERSION_H_
#define DAVIT_RUNTIME_SYS_VERSION_H_

namespace davit::sys {

// Of the programs: "0.1.0". Set by the build (--define=davit_version=...; .bazelrc has the
// default).
const char* Version();

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_VERSION_H_
