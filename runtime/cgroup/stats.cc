#include "runtime/cgroup/stats.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::runtime::cgroup {
namespace {

constexpr size_t kMaxFile = 4 << 20;
constexpr uint64_t kV1Unlimited = uint64_t{1} << 60;

// The group's directory in one hierarchy, and what its files say. A file that is missing or odd
// reads as nothing: statistics of a kernel that tells less are fewer, not an error.
class GroupDirectory {
 public:
  GroupDirectory() = default;
  GroupDirectory(const Layout& layout, int hierarchy, absl::string_view group) {
    if (hierarchy < 0) return;
    is_v2_ = layout.hierarchies[static_cast<size_t>(hierarchy)].is_v2;
    auto fd = sys::OpenAt(AT_FDCWD, layout.Directory(hierarchy, group), O_RDONLY | O_DIRECTORY);
    if (fd.ok()) fd_ = *std::move(fd);
  }

  bool ok() const { return fd_.ok(); }
  bool is_v2() const { return is_v2_; }
  int fd() const { return fd_.get(); }

  std::string Text(const std::string& file) const {
    auto text = sys::ReadFileAt(fd_.get(), file, kMaxFile);
    return text.ok() ? *std::move(text) : "";
  }

  std::optional<uint64_t> Number(const std::string& file) const {
    uint64_t value = 0;
    if (!absl::SimpleAtoi(Text(file), &value)) return std::nullopt;
    return value;
  }

  // Empty for "max" and for v1's largest number.
  std::optional<uint64_t> Limit(const std::string& file) const {
    const std::optional<uint64_t> value = Number(file);
    if (value.has_value() && *value >= kV1Unlimited) return std::nullopt;
    return value;
  }

  // "key value" lines.
  std::map<std::string, uint64_t> Table(const std::string& file) const {
    std::map<std::string, uint64_t> table;
    const std::string text = Text(file);
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      const size_t space = line.find(' ');
      uint64_t value = 0;
      if (space != absl::string_view::npos && absl::SimpleAtoi(line.substr(space + 1), &value)) {
        table[std::string(line.substr(0, space))] = value;
      }
    }
    return table;
  }

 private:
  sys::UniqueFd fd_;
  bool is_v2_ = false;
};

uint64_t ValueOf(const std::map<std::string, uint64_t>& table, const std::string& key) {
  const auto found = table.find(key);
  return found == table.end() ? 0 : found->second;
}

CpuStats ReadCpuV2(const GroupDirectory& directory) {
  const auto table = directory.Table("cpu.stat");
  CpuStats stats;
  stats.usage_ns = ValueOf(table, "usage_usec") * 1000;
  stats.user_ns = ValueOf(table, "user_usec") * 1000;
  stats.system_ns = ValueOf(table, "system_usec") * 1000;
  stats.periods = ValueOf(table, "nr_periods");
  stats.throttled_periods = ValueOf(table, "nr_throttled");
  stats.throttled_ns = ValueOf(table, "throttled_usec") * 1000;
  return stats;
}

CpuStats ReadCpuV1(const GroupDirectory& cpu, const GroupDirectory& cpuacct) {
  CpuStats stats;
  if (cpuacct.ok()) {
    stats.usage_ns = cpuacct.Number("cpuacct.usage").value_or(0);
    stats.user_ns = cpuacct.Number("cpuacct.usage_user").value_or(0);
    stats.system_ns = cpuacct.Number("cpuacct.usage_sys").value_or(0);
  }
  if (cpu.ok()) {
    const auto table = cpu.Table("cpu.stat");
    stats.periods = ValueOf(table, "nr_periods");
    stats.throttled_periods = ValueOf(table, "nr_throttled");
    stats.throttled_ns = ValueOf(table, "throttled_time");
  }
  return stats;
}

MemoryStats ReadMemoryV2(const GroupDirectory& directory) {
  const auto table = directory.Table("memory.stat");
  const auto events = directory.Table("memory.events");
  MemoryStats stats;
  stats.usage = directory.Number("memory.current").value_or(0);
  stats.rss = ValueOf(table, "anon");
  stats.cache = ValueOf(table, "file");
  stats.inactive_file = ValueOf(table, "inactive_file");
  stats.active_file = ValueOf(table, "active_file");
  stats.inactive_anon = ValueOf(table, "inactive_anon");
  stats.active_anon = ValueOf(table, "active_anon");
  stats.mapped_file = ValueOf(table, "file_mapped");
  stats.kernel = ValueOf(table, "kernel");
  stats.page_faults = ValueOf(table, "pgfault");
  stats.major_page_faults = ValueOf(table, "pgmajfault");
  stats.swap = directory.Number("memory.swap.current").value_or(0);
  stats.limit = directory.Limit("memory.max");
  stats.swap_limit = directory.Limit("memory.swap.max");
  stats.max_usage = directory.Number("memory.peak");
  stats.limit_hits = ValueOf(events, "max");
  stats.oom_kills = ValueOf(events, "oom_kill");
  return stats;
}

MemoryStats ReadMemoryV1(const GroupDirectory& directory) {
  const auto table = directory.Table("memory.stat");
  MemoryStats stats;
  stats.usage = directory.Number("memory.usage_in_bytes").value_or(0);
  // The total_ lines are those with the groups below.
  stats.rss = ValueOf(table, "total_rss");
  stats.cache = ValueOf(table, "total_cache");
  stats.inactive_file = ValueOf(table, "total_inactive_file");
  stats.active_file = ValueOf(table, "total_active_file");
  stats.inactive_anon = ValueOf(table, "total_inactive_anon");
  stats.active_anon = ValueOf(table, "total_active_anon");
  stats.mapped_file = ValueOf(table, "total_mapped_file");
  stats.kernel = directory.Number("memory.kmem.usage_in_bytes").value_or(0);
  stats.page_faults = ValueOf(table, "total_pgfault");
  stats.major_page_faults = ValueOf(table, "total_pgmajfault");
  stats.swap = ValueOf(table, "total_swap");
  stats.limit = directory.Limit("memory.limit_in_bytes");
  const std::optional<uint64_t> sum = directory.Limit("memory.memsw.limit_in_bytes");
  if (sum.has_value() && stats.limit.has_value()) {
    stats.swap_limit = *sum > *stats.limit ? *sum - *stats.limit : 0;
  }
  stats.max_usage = directory.Number("memory.max_usage_in_bytes");
  // Where both limits are the same it is the one of the sum that is hit.
  stats.limit_hits = directory.Number("memory.failcnt").value_or(0) +
                     directory.Number("memory.memsw.failcnt").value_or(0);
  stats.oom_kills = ValueOf(directory.Table("memory.oom_control"), "oom_kill");
  return stats;
}

// "8:0" -> the device's entry, made if need be; null for a line of another kind ("Total 0").
IoDeviceStats* DeviceEntry(absl::string_view name, std::vector<IoDeviceStats>& devices) {
  const std::vector<absl::string_view> parts = absl::StrSplit(name, ':');
  uint32_t major = 0;
  uint32_t minor = 0;
  if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &major) ||
      !absl::SimpleAtoi(parts[1], &minor)) {
    return nullptr;
  }
  for (IoDeviceStats& device : devices) {
    if (device.major == major && device.minor == minor) return &device;
  }
  devices.push_back({major, minor});
  return &devices.back();
}

void ReadIoV2(const GroupDirectory& directory, std::vector<IoDeviceStats>& devices) {
  const std::string text = directory.Text("io.stat");
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    IoDeviceStats* device = words.empty() ? nullptr : DeviceEntry(words[0], devices);
    if (device == nullptr) continue;
    for (size_t i = 1; i < words.size(); ++i) {
      const std::pair<absl::string_view, absl::string_view> pair =
          absl::StrSplit(words[i], absl::MaxSplits('=', 1));
      uint64_t value = 0;
      if (!absl::SimpleAtoi(pair.second, &value)) continue;
      if (pair.first == "rbytes") device->read_bytes = value;
      if (pair.first == "wbytes") device->write_bytes = value;
      if (pair.first == "rios") device->read_operations = value;
      if (pair.first == "wios") device->write_operations = value;
    }
  }
}

// Lines "8:0 Read 4096" of bytes or of operations.
void ReadIoV1(const std::string& text, uint64_t IoDeviceStats::*read,
              uint64_t IoDeviceStats::*written, std::vector<IoDeviceStats>& devices) {
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    uint64_t value = 0;
    if (words.size() != 3 || !absl::SimpleAtoi(words[2], &value)) continue;
    if (words[1] != "Read" && words[1] != "Write") continue;
    IoDeviceStats* device = DeviceEntry(words[0], devices);
    if (device != nullptr) device->*(words[1] == "Read" ? read : written) = value;
  }
}

std::vector<HugetlbStats> ReadHugetlb(const GroupDirectory& directory) {
  const absl::string_view suffix = directory.is_v2() ? ".current" : ".usage_in_bytes";
  std::vector<HugetlbStats> all;
  const int fd = openat(directory.fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return all;
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(fd), closedir);
  while (const dirent* entry = readdir(stream.get())) {
    absl::string_view size = entry->d_name;
    if (!absl::ConsumePrefix(&size, "hugetlb.") || !absl::ConsumeSuffix(&size, suffix)) continue;
    if (size.find('.') != absl::string_view::npos) continue;  // the reservations' files
    HugetlbStats stats;
    stats.page_size = std::string(size);
    stats.usage = directory.Number(entry->d_name).value_or(0);
    stats.limit_hits =
        directory.is_v2()
            ? ValueOf(directory.Table(absl::StrCat("hugetlb.", size, ".events")), "max")
            : directory.Number(absl::StrCat("hugetlb.", size, ".failcnt")).value_or(0);
    all.push_back(std::move(stats));
  }
  std::sort(all.begin(), all.end(),
            [](const HugetlbStats& a, const HugetlbStats& b) { return a.page_size < b.page_size; });
  return all;
}

// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", and the same for "full".
std::optional<Pressure> ReadPressure(const GroupDirectory& directory, const std::string& file) {
  const std::string text = directory.Text(file);
  if (text.empty()) return std::nullopt;
  Pressure pressure;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    PressureLine& into = words[0] == "full" ? pressure.full : pressure.some;
    for (const absl::string_view word : words) {
      const std::pair<absl::string_view, absl::string_view> pair =
          absl::StrSplit(word, absl::MaxSplits('=', 1));
      if (pair.first == "avg10") (void)absl::SimpleAtod(pair.second, &into.avg10);
      if (pair.first == "avg60") (void)absl::SimpleAtod(pair.second, &into.avg60);
      if (pair.first == "avg300") (void)absl::SimpleAtod(pair.second, &into.avg300);
      if (pair.first == "total") (void)absl::SimpleAtoi(pair.second, &into.total_us);
    }
  }
  return pressure;
}

}  // namespace

absl::StatusOr<Stats> ReadStats(const Layout& layout, absl::string_view group) {
  DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
  auto open = [&](absl::string_view controller) {
    return GroupDirectory(layout, layout.Find(controller), group);
  };
  Stats stats;
  stats.timestamp_ns = absl::GetCurrentTimeNanos();
  const GroupDirectory cpu = open("cpu");
  if (cpu.ok() && cpu.is_v2()) {
    stats.cpu = ReadCpuV2(cpu);
  } else {
    const GroupDirectory cpuacct = open("cpuacct");
    if (cpu.ok() || cpuacct.ok()) stats.cpu = ReadCpuV1(cpu, cpuacct);
  }
  if (const GroupDirectory memory = open("memory"); memory.ok()) {
    stats.memory = memory.is_v2() ? ReadMemoryV2(memory) : ReadMemoryV1(memory);
    stats.memory->working_set =
        stats.memory->usage - std::min(stats.memory->usage, stats.memory->inactive_file);
  }
  if (const GroupDirectory pids = open("pids"); pids.ok()) {
    stats.pids = PidsStats{pids.Number("pids.current").value_or(0), pids.Limit("pids.max")};
  }
  if (!stats.cpu && !stats.memory && !stats.pids) {
    return absl::NotFoundError(absl::StrCat("read statistics of cgroup ", group, ": it is gone"));
  }
  if (const GroupDirectory io = open("io"); io.ok()) {
    ReadIoV2(io, stats.io);
  } else if (const GroupDirectory blkio = open("blkio"); blkio.ok()) {
    ReadIoV1(blkio.Text("blkio.throttle.io_service_bytes_recursive"), &IoDeviceStats::read_bytes,
             &IoDeviceStats::write_bytes, stats.io);
    ReadIoV1(blkio.Text("blkio.throttle.io_serviced_recursive"), &IoDeviceStats::read_operations,
             &IoDeviceStats::write_operations, stats.io);
  }
  if (const GroupDirectory hugetlb = open("hugetlb"); hugetlb.ok()) {
    stats.hugetlb = ReadHugetlb(hugetlb);
  }
  if (const GroupDirectory unified(layout, layout.Unified(), group); unified.ok()) {
    stats.cpu_pressure = ReadPressure(unified, "cpu.pressure");
    stats.memory_pressure = ReadPressure(unified, "memory.pressure");
    stats.io_pressure = ReadPressure(unified, "io.pressure");
  }
  return stats;
}

absl::StatusOr<uint64_t> ReadOomKills(const Layout& layout, absl::string_view group) {
  DAVIT_RETURN_IF_ERROR(CheckGroupPath(group));
  const GroupDirectory memory(layout, layout.Find("memory"), group);
  if (!memory.ok()) {
    return absl::NotFoundError(absl::StrCat("read OOM kills of cgroup ", group, ": it is gone"));
  }
  return ValueOf(memory.Table(memory.is_v2() ? "memory.events" : "memory.oom_control"), "oom_kill");
}

}  // namespace davit::runtime::cgroup
