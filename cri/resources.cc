#include "cri/resources.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

absl::Status Range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("resources.", field, ": ", value, " is not between ", low, " and ", high));
}

// man 7 cpuset, "List format"
absl::Status CheckCpuList(const char* field, const std::string& list) {
  const bool good = list.size() <= 4096 && std::all_of(list.begin(), list.end(), [](char c) {
                      return (c >= '0' && c <= '9') || c == ',' || c == '-';
                    });
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("resources.", field, ": \"",
                                                 absl::string_view(list).substr(0, 64),
                                                 "\" is not a list of numbers and ranges"));
}

// "2MB" -> 2048 (KiB); 0 for what is no page size.
uint64_t PageSizeKib(const std::string& size) {
  constexpr struct {
    absl::string_view unit;
    uint64_t kib;
  } kUnits[] = {{"KB", 1}, {"MB", 1 << 10}, {"GB", 1 << 20}};
  for (const auto& unit : kUnits) {
    uint64_t count = 0;
    if (absl::EndsWith(size, unit.unit) &&
        absl::SimpleAtoi(absl::string_view(size).substr(0, size.size() - 2), &count) && count > 0 &&
        count < (uint64_t{1} << 30)) {
      return count * unit.kib;
    }
  }
  return 0;
}

bool MachineHasPageSize(uint64_t kib) {
  return ::access(absl::StrCat("/sys/kernel/mm/hugepages/hugepages-", kib, "kB").c_str(), F_OK) ==
         0;
}

absl::Status TranslateMemory(const v1::LinuxContainerResources& from,
                             runtime::spec::LinuxResources* to) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const int64_t limit = from.memory_limit_in_bytes();
  const int64_t swap = from.memory_swap_limit_in_bytes();
  DAVIT_RETURN_IF_ERROR(Range("memory_limit_in_bytes", limit, -1, kMax));
  DAVIT_RETURN_IF_ERROR(Range("memory_swap_limit_in_bytes", swap, -1, kMax));
  if (swap > 0 && limit > swap) {
    return absl::InvalidArgumentError(absl::StrCat("resources.memory_swap_limit_in_bytes: ", swap,
                                                   " is below memory_limit_in_bytes ", limit,
                                                   ", which it includes"));
  }
  if (limit == 0 && swap == 0) return absl::OkStatus();
  to->memory.emplace();
  if (limit != 0) to->memory->limit = limit;
  if (swap != 0) {
    to->memory->swap = swap;
  } else if (limit > 0) {
    to->memory->swap = limit;
  }
  return absl::OkStatus();
}

absl::Status TranslateCpu(const v1::LinuxContainerResources& from,
                          runtime::spec::LinuxResources* to) {
  DAVIT_RETURN_IF_ERROR(Range("cpu_shares", from.cpu_shares(), 0, 1 << 18));
  if (from.cpu_period() != 0) {
    DAVIT_RETURN_IF_ERROR(Range("cpu_period", from.cpu_period(), 1000, 1000000));
  }
  if (from.cpu_quota() != 0 && from.cpu_quota() != -1) {
    DAVIT_RETURN_IF_ERROR(
        Range("cpu_quota", from.cpu_quota(), 1000, std::numeric_limits<int64_t>::max()));
  }
  DAVIT_RETURN_IF_ERROR(CheckCpuList("cpuset_cpus", from.cpuset_cpus()));
  DAVIT_RETURN_IF_ERROR(CheckCpuList("cpuset_mems", from.cpuset_mems()));
  if (from.cpu_shares() == 0 && from.cpu_period() == 0 && from.cpu_quota() == 0 &&
      from.cpuset_cpus().empty() && from.cpuset_mems().empty()) {
    return absl::OkStatus();
  }
  runtime::spec::Cpu& cpu = to->cpu.emplace();
  // Below 2 the kernel takes 2; 262144 is its maximum.
  if (from.cpu_shares() != 0) cpu.shares = std::max<int64_t>(from.cpu_shares(), 2);
  if (from.cpu_period() != 0) cpu.period = from.cpu_period();
  if (from.cpu_quota() != 0) cpu.quota = from.cpu_quota();
  cpu.cpus = from.cpuset_cpus();
  cpu.mems = from.cpuset_mems();
  return absl::OkStatus();
}

absl::Status TranslateUnified(const v1::LinuxContainerResources& from,
                              runtime::spec::LinuxResources* to) {
  for (const auto& [file, value] : from.unified()) {
    const bool good = absl::StrContains(file, ".") && !absl::StrContains(file, "/") &&
                      file.find('\0') == std::string::npos && file[0] != '.' &&
                      file.size() <= 255 && value.size() <= 4096 &&
                      value.find('\0') == std::string::npos;
    if (!good) {
      return absl::InvalidArgumentError(absl::StrCat("resources.unified: \"",
                                                     absl::string_view(file).substr(0, 64),
                                                     "\" is no cgroup file with a value"));
    }
    to->unified[file] = value;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<runtime::spec::LinuxResources> TranslateResources(
    const v1::LinuxContainerResources& from) {
  runtime::spec::LinuxResources to;
  DAVIT_RETURN_IF_ERROR(TranslateMemory(from, &to));
  DAVIT_RETURN_IF_ERROR(TranslateCpu(from, &to));
  DAVIT_RETURN_IF_ERROR(TranslateUnified(from, &to));
  for (const v1::HugepageLimit& limit : from.hugepage_limits()) {
    const uint64_t kib = PageSizeKib(limit.page_size());
    if (kib == 0) {
      return absl::InvalidArgumentError(absl::StrCat("resources.hugepage_limits: \"",
                                                     limit.page_size().substr(0, 64),
                                                     "\" is no page size such as \"2MB\""));
    }
    if (MachineHasPageSize(kib)) to.hugepage_limits.push_back({limit.page_size(), limit.limit()});
  }
  return to;
}

absl::StatusOr<int> TranslateOomScoreAdj(int64_t asked, int floor) {
  DAVIT_RETURN_IF_ERROR(Range("oom_score_adj", asked, -1000, 1000));
  return std::max(static_cast<int>(asked), floor);
}

void MergeResources(const v1::LinuxContainerResources& update,
                    v1::LinuxContainerResources* current) {
  if (update.cpu_period() != 0) current->set_cpu_period(update.cpu_period());
  if (update.cpu_quota() != 0) current->set_cpu_quota(update.cpu_quota());
  if (update.cpu_shares() != 0) current->set_cpu_shares(update.cpu_shares());
  if (update.memory_limit_in_bytes() != 0) {
    // The new limit alone: a swap limit that came with the old one does not outlive it.
    current->set_memory_limit_in_bytes(update.memory_limit_in_bytes());
    current->set_memory_swap_limit_in_bytes(update.memory_swap_limit_in_bytes());
  } else if (update.memory_swap_limit_in_bytes() != 0) {
    current->set_memory_swap_limit_in_bytes(update.memory_swap_limit_in_bytes());
  }
  if (update.oom_score_adj() != 0) current->set_oom_score_adj(update.oom_score_adj());
  if (!update.cpuset_cpus().empty()) current->set_cpuset_cpus(update.cpuset_cpus());
  if (!update.cpuset_mems().empty()) current->set_cpuset_mems(update.cpuset_mems());
  if (update.hugepage_limits_size() > 0) {
    *current->mutable_hugepage_limits() = update.hugepage_limits();
  }
  for (const auto& [file, value] : update.unified()) (*current->mutable_unified())[file] = value;
}

}  // namespace davit::cri
