#include "sandbox/supervisor/plan_facts.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <span>

#include "absl/strings/str_cat.h"
#include "runtime/plan/plan.h"
#include "runtime/sys/errno.h"

namespace davit::sandbox {

namespace plan = runtime::plan;

absl::StatusOr<PlanFacts> ReadPlanFacts(int plan_fd) {
  struct stat st;
  if (fstat(plan_fd, &st) != 0) return sys::ErrnoStatus(errno, "stat the plan");
  const auto size = static_cast<size_t>(st.st_size);
  if (size < sizeof(plan::Header) || size > plan::kMaxPlanBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the plan has ", size, " bytes"));
  }
  void* memory = mmap(nullptr, size, PROT_READ, MAP_SHARED, plan_fd, 0);
  if (memory == MAP_FAILED) return sys::ErrnoStatus(errno, "map the plan");
  const std::span<const unsigned char> bytes(static_cast<unsigned char*>(memory), size);
  PlanFacts facts;
  const char* error = plan::Validate(bytes);
  if (error == nullptr) {
    const plan::View view(bytes);
    for (const plan::Op& op : view.parent_ops()) {
      if (op.code == plan::Code::kMakeCgroup) facts.cgroups.emplace_back(view.String(op.s));
    }
    facts.new_pid_namespace = (view.header().clone_flags & CLONE_NEWPID) != 0;
    facts.terminal = view.header().terminal != 0;
  }
  munmap(memory, size);
  if (error != nullptr) return absl::InvalidArgumentError(absl::StrCat("the plan: ", error));
  return facts;
}

}  // namespace davit::sandbox
