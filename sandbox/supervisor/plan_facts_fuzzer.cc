// Any bytes as the plan that a supervisor is handed.

#include <sys/mman.h>
#include <unistd.h>

#include "runtime/plan/plan.h"
#include "runtime/sys/fuzzing/fuzzer.h"
#include "sandbox/supervisor/plan_facts.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  namespace plan = runtime::plan;
  plan::Header header;
  std::copy(std::begin(plan::kMagic), std::end(plan::kMagic), header.magic);
  header.version = plan::kPlanVersion;
  header.slot_count = plan::kExternalSlots + 1;
  header.parent_count = 1;
  header.child_count = 1;
  header.data_offset = sizeof header + 2 * sizeof(plan::Op);
  const std::string data("\0/cg\0arg\0\0", 10);
  header.data_size = static_cast<uint32_t>(data.size());
  header.total_size = header.data_offset + header.data_size;
  plan::Op ops[2];
  ops[0].code = plan::Code::kMakeCgroup;
  ops[0].b = plan::kExternalSlots;
  ops[0].s = {1, 3};
  ops[1].code = plan::Code::kExec;
  ops[1].s = {5, 4};
  return {std::string(reinterpret_cast<const char*>(&header), sizeof header) +
          std::string(reinterpret_cast<const char*>(ops), sizeof ops) + data};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int fd = memfd_create("plan", MFD_CLOEXEC);
  DAVIT_FUZZ_CHECK(fd >= 0 && write(fd, data, size) == static_cast<ssize_t>(size));
  const auto facts = davit::sandbox::ReadPlanFacts(fd);
  if (facts.ok()) {
    for (const std::string& group : facts->cgroups) DAVIT_FUZZ_CHECK(group.size() <= size);
  }
  close(fd);
  return 0;
}
