#ifndef DAVIT_SANDBOX_EXEC_TEMPLATE_H_
#define DAVIT_SANDBOX_EXEC_TEMPLATE_H_

#include <memory>
#include <vector>

#include "runtime/seccomp/cache.h"
#include "runtime/spec/spec.h"

namespace davit::sandbox {

// What an exec session takes from its container: the process of its config.json (environment,
// directory, user, capabilities, limits), and the compiled seccomp program. Kept in memory, so that
// a probe that runs every second parses and compiles nothing. Immutable.
struct ExecTemplate {
  runtime::spec::Process process;
  std::shared_ptr<const runtime::seccomp::CachedProgram> seccomp;  // null: none
  std::vector<runtime::spec::IdMapping> uid_mappings;  // of its user namespace; empty: the node's
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_EXEC_TEMPLATE_H_
