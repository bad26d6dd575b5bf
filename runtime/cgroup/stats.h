#ifndef DAVIT_RUNTIME_CGROUP_STATS_H_
#define DAVIT_RUNTIME_CGROUP_STATS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/cgroup/layout.h"

// What the kernel counts for a group. Values that a kernel or cgroup version does not tell stay
// empty or 0 as said.
namespace davit::runtime::cgroup {

struct CpuStats {
  uint64_t usage_ns = 0;  // since the group was made
  uint64_t user_ns = 0;
  uint64_t system_ns = 0;
  uint64_t periods = 0;  // of the quota
  uint64_t throttled_periods = 0;
  uint64_t throttled_ns = 0;
};

struct MemoryStats {
  uint64_t usage = 0;        // bytes, with page cache
  uint64_t working_set = 0;  // usage without the inactive file pages, as the kubelet counts it
  uint64_t rss = 0;          // anonymous memory
  uint64_t cache = 0;        // file pages
  uint64_t inactive_file = 0;
  uint64_t active_file = 0;
  uint64_t inactive_anon = 0;
  uint64_t active_anon = 0;
  uint64_t mapped_file = 0;
  uint64_t kernel = 0;  // 0 where not told
  uint64_t page_faults = 0;
  uint64_t major_page_faults = 0;
  uint64_t swap = 0;                   // bytes in swap
  std::optional<uint64_t> limit;       // empty: none
  std::optional<uint64_t> swap_limit;  // of swap alone
  std::optional<uint64_t> max_usage;   // v1, and v2 from 5.19
  uint64_t limit_hits = 0;             // times the limit was reached (failcnt, events max)
  uint64_t oom_kills = 0;              // processes killed
};

struct PidsStats {
  uint64_t current = 0;
  std::optional<uint64_t> limit;  // empty: none
};

struct IoDeviceStats {
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t read_bytes = 0;
  uint64_t write_bytes = 0;
  uint64_t read_operations = 0;
  uint64_t write_operations = 0;
};

struct PressureLine {
  double avg10 = 0;  // percent
  double avg60 = 0;
  double avg300 = 0;
  uint64_t total_us = 0;
};

struct Pressure {
  PressureLine some;
  PressureLine full;
};

struct HugetlbStats {
  std::string page_size;  // "2MB"
  uint64_t usage = 0;     // bytes
  uint64_t limit_hits = 0;
};

struct Stats {
  int64_t timestamp_ns = 0;  // since the epoch, when reading began
  std::optional<CpuStats> cpu;
  std::optional<MemoryStats> memory;
  std::optional<PidsStats> pids;
  std::vector<IoDeviceStats> io;
  std::vector<HugetlbStats> hugetlb;
  // Of the v2 group, also on a hybrid machine.
  std::optional<Pressure> cpu_pressure;
  std::optional<Pressure> memory_pressure;
  std::optional<Pressure> io_pressure;
};

// Reads everything. A part whose controller is missing is empty. NotFound if the group is gone
// (from every hierarchy that counts something). Thread-safe; takes about ten file reads.
absl::StatusOr<Stats> ReadStats(const Layout& layout, absl::string_view group);

// Only the processes killed by the kernel for want of memory in this group, for the exit reason.
absl::StatusOr<uint64_t> ReadOomKills(const Layout& layout, absl::string_view group);

}  // namespace davit::runtime::cgroup

#endif  // DAVIT_RUNTIME_CGROUP_STATS_H_
