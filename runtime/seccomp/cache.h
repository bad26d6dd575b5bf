#ifndef DAVIT_RUNTIME_SECCOMP_CACHE_H_
#define DAVIT_RUNTIME_SECCOMP_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "runtime/seccomp/compile.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"

namespace davit::runtime::seccomp {

// Encodes everything of a profile that the compiled program depends on, so that two profiles have
// the same key exactly if they compile to the same input: every string and list is preceded by its
// length, every optional by a presence byte. Listener path and metadata are not part of it.
std::string CanonicalKey(const spec::Seccomp& profile);

// A compiled program in a sealed memfd (8 bytes an instruction), shared by all who use it.
struct CachedProgram {
  sys::UniqueFd memfd;
  size_t instructions = 0;
  uint32_t flags = 0;
  bool notifies = false;
};

// Compiled programs by profile. Thread-safe. Callers that ask for the same profile at the same time
// wait for one compilation. Failures are not kept. Holds `capacity` programs (one descriptor each);
// the one unused for longest goes first and lives on while somebody holds it.
class ProgramCache {
 public:
  using Compiler = std::function<absl::StatusOr<Program>(const spec::Seccomp&)>;
  explicit ProgramCache(size_t capacity = 64, Compiler compiler = Compile);
  ~ProgramCache();

  ProgramCache(const ProgramCache&) = delete;
  ProgramCache& operator=(const ProgramCache&) = delete;

  absl::StatusOr<std::shared_ptr<const CachedProgram>> Get(const spec::Seccomp& profile);

 private:
  struct Slot;
  using SlotPtr = std::shared_ptr<Slot>;

  absl::StatusOr<std::shared_ptr<const CachedProgram>> CompileInto(const std::string& key,
                                                                   const SlotPtr& slot,
                                                                   const spec::Seccomp& profile);
  void Touch(Slot& slot) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Evict() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t capacity_;
  const Compiler compiler_;
  sys::Mutex mutex_;
  sys::CondVar done_;
  std::unordered_map<std::string, SlotPtr> slots_ ABSL_GUARDED_BY(mutex_);
  std::list<std::string> by_use_ ABSL_GUARDED_BY(mutex_);  // keys, the most recent first
};

}  // namespace davit::runtime::seccomp

#endif  // DAVIT_RUNTIME_SECCOMP_CACHE_H_
