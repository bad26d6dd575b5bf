#ifndef DAVIT_RUNTIME_SPEC_ID_MAPPING_H_
#define DAVIT_RUNTIME_SPEC_ID_MAPPING_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/spec/spec.h"

// Lists of id mappings (runtime-spec config-linux.md, "User namespace mappings"; man 7
// user_namespaces). Pure and thread-safe.
namespace davit::runtime::spec {

// What /proc/PID/uid_map is written with: a line "container host size" for each.
std::string MapText(const std::vector<IdMapping>& mappings);

// The host's id for one of the container's; nothing if the mappings do not say.
std::optional<uint32_t> HostId(const std::vector<IdMapping>& mappings, uint32_t container_id);

// InvalidArgument says what the kernel would refuse without a word: no mapping at all, more than
// the 340 that fit, an empty one, one beyond the highest id (2^32-2), two that overlap on either
// side.
absl::Status CheckMappings(const std::vector<IdMapping>& mappings);

bool SameMappings(const std::vector<IdMapping>& a, const std::vector<IdMapping>& b);

}  // namespace davit::runtime::spec

#endif  // DAVIT_RUNTIME_SPEC_ID_MAPPING_H_
