#include "runtime/spec/id_mapping.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace davit::runtime::spec {
namespace {

constexpr size_t kMaxMappings = 340;   // UID_GID_MAP_MAX_EXTENTS
constexpr uint64_t kIds = 0xffffffff;  // the last one means "no id"

bool Overlap(uint32_t a, uint32_t a_size, uint32_t b, uint32_t b_size) {
  return uint64_t{a} < uint64_t{b} + b_size && uint64_t{b} < uint64_t{a} + a_size;
}

std::string Text(const IdMapping& map) {
  return absl::StrCat("container ids from ", map.container_id, ", host ids from ", map.host_id,
                      ", length ", map.size);
}

}  // namespace

std::string MapText(const std::vector<IdMapping>& mappings) {
  std::string text;
  for (const IdMapping& map : mappings) {
    absl::StrAppend(&text, map.container_id, " ", map.host_id, " ", map.size, "\n");
  }
  return text;
}

std::optional<uint32_t> HostId(const std::vector<IdMapping>& mappings, uint32_t container_id) {
  for (const IdMapping& map : mappings) {
    if (container_id >= map.container_id && container_id - map.container_id < map.size) {
      return map.host_id + (container_id - map.container_id);
    }
  }
  return std::nullopt;
}

absl::Status CheckMappings(const std::vector<IdMapping>& mappings) {
  if (mappings.empty()) return absl::InvalidArgumentError("id mappings: there are none");
  if (mappings.size() > kMaxMappings) {
    return absl::InvalidArgumentError(absl::StrCat("id mappings: more than ", kMaxMappings));
  }
  for (size_t i = 0; i < mappings.size(); ++i) {
    const IdMapping& map = mappings[i];
    if (map.size == 0) {
      return absl::InvalidArgumentError(absl::StrCat("id mapping ", i, " has no length"));
    }
    if (uint64_t{map.container_id} + map.size > kIds || uint64_t{map.host_id} + map.size > kIds) {
      return absl::InvalidArgumentError(
          absl::StrCat("id mapping ", i, " (", Text(map), ") goes beyond the highest id"));
    }
    for (size_t j = 0; j < i; ++j) {
      const IdMapping& other = mappings[j];
      if (Overlap(map.container_id, map.size, other.container_id, other.size) ||
          Overlap(map.host_id, map.size, other.host_id, other.size)) {
        return absl::InvalidArgumentError(absl::StrCat("id mappings ", j, " (", Text(other),
                                                       ") and ", i, " (", Text(map), ") overlap"));
      }
    }
  }
  return absl::OkStatus();
}

bool SameMappings(const std::vector<IdMapping>& a, const std::vector<IdMapping>& b) {
  return std::equal(
      a.begin(), a.end(), b.begin(), b.end(), [](const IdMapping& x, const IdMapping& y) {
        return x.container_id == y.container_id && x.host_id == y.host_id && x.size == y.size;
      });
}

}  // namespace davit::runtime::spec
