#include "runtime/cgroup/resources.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "runtime/cgroup/device_rules.h"
#include "runtime/sys/errno.h"

namespace davit::runtime::cgroup {
namespace {

constexpr int64_t kUnlimited = -1;

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("resources: ", what));
}

// Collects the writes of one compilation.
class Compiler {
 public:
  Compiler(const spec::LinuxResources& resources, const Layout& layout,
           const CurrentLimits& current)
      : resources_(resources), layout_(layout), current_(current) {}

  absl::StatusOr<std::vector<Write>> Compile() {
    if (resources_.cpu.has_value()) {
      DAVIT_RETURN_IF_ERROR(Cpu(*resources_.cpu));
      DAVIT_RETURN_IF_ERROR(Cpuset(*resources_.cpu));
    }
    if (resources_.memory.has_value()) DAVIT_RETURN_IF_ERROR(Memory(*resources_.memory));
    if (resources_.pids_limit.has_value()) DAVIT_RETURN_IF_ERROR(Pids(*resources_.pids_limit));
    DAVIT_RETURN_IF_ERROR(Hugetlb());
    if (resources_.block_io.has_value()) DAVIT_RETURN_IF_ERROR(BlockIo(*resources_.block_io));
    DAVIT_RETURN_IF_ERROR(Devices());
    DAVIT_RETURN_IF_ERROR(Unified());
    return std::move(writes_);
  }

 private:
  void Add(int hierarchy, absl::string_view file, std::string value,
           uint32_t flags = kWriteStrict) {
    writes_.push_back({hierarchy, std::string(file), std::move(value), flags});
  }

  bool IsV2(int hierarchy) const {
    return layout_.hierarchies[static_cast<size_t>(hierarchy)].is_v2;
  }

  // The hierarchy of a controller whose limits must not be dropped.
  absl::StatusOr<int> Need(absl::string_view controller, absl::string_view what) const {
    const int hierarchy = layout_.Find(controller);
    if (hierarchy < 0) {
      return absl::FailedPreconditionError(
          absl::StrCat("resources: ", what, " cannot be limited: the ", controller,
                       " cgroup controller is not available on this machine"));
    }
    return hierarchy;
  }

  absl::Status Cpu(const spec::Cpu& cpu);
  void CpuV1(int hierarchy, const spec::Cpu& cpu);
  void CpuV2(int hierarchy, const spec::Cpu& cpu);
  absl::Status Cpuset(const spec::Cpu& cpu);
  absl::Status Memory(const spec::Memory& memory);
  void MemoryLimitsV1(int hierarchy, std::optional<int64_t> limit, std::optional<int64_t> swap);
  void MemoryV2(int hierarchy, const spec::Memory& memory, std::optional<int64_t> limit,
                std::optional<int64_t> swap);
  absl::Status Pids(int64_t limit);
  absl::Status Hugetlb();
  absl::Status BlockIo(const spec::BlockIo& io);
  void BlockIoV1(int hierarchy, const spec::BlockIo& io);
  void BlockIoV2(int hierarchy, const spec::BlockIo& io);
  absl::Status Devices();
  absl::Status Unified();

  const spec::LinuxResources& resources_;
  const Layout& layout_;
  const CurrentLimits& current_;
  std::vector<Write> writes_;
};

std::string MaxOr(int64_t value) { return value < 0 ? "max" : absl::StrCat(value); }

absl::Status Compiler::Cpu(const spec::Cpu& cpu) {
  const bool wanted = cpu.shares.value_or(0) != 0 || cpu.quota.value_or(0) != 0 ||
                      cpu.period.value_or(0) != 0 || cpu.burst.has_value() ||
                      cpu.idle.has_value() || cpu.realtime_runtime.value_or(0) != 0 ||
                      cpu.realtime_period.value_or(0) != 0;
  if (!wanted) return absl::OkStatus();
  if (cpu.idle.has_value() && *cpu.idle != 0 && *cpu.idle != 1) {
    return Invalid(absl::StrCat("cpu idle is ", *cpu.idle, ", not 0 or 1"));
  }
  DAVIT_ASSIGN_OR_RETURN(const int hierarchy, Need("cpu", "CPU time"));
  if (!IsV2(hierarchy)) {
    CpuV1(hierarchy, cpu);
    return absl::OkStatus();
  }
  if (cpu.realtime_runtime.value_or(0) != 0 || cpu.realtime_period.value_or(0) != 0) {
    return absl::FailedPreconditionError(
        "resources: real-time CPU limits do not exist in cgroup v2");
  }
  CpuV2(hierarchy, cpu);
  return absl::OkStatus();
}

void Compiler::CpuV1(int hierarchy, const spec::Cpu& cpu) {
  // The kernel takes no shares while a group is idle (EINVAL), so idle goes first, and alone.
  if (cpu.idle.has_value()) {
    Add(hierarchy, "cpu.idle", absl::StrCat(*cpu.idle),
        *cpu.idle == 0 ? kIgnoreMissing : kWriteStrict);
  }
  if (cpu.shares.value_or(0) != 0 && cpu.idle.value_or(0) == 0) {
    Add(hierarchy, "cpu.shares", absl::StrCat(*cpu.shares));
  }
  const bool has_period = cpu.period.value_or(0) != 0;
  const bool has_quota = cpu.quota.value_or(0) != 0;
  const bool changes = current_.cpu_quota.has_value() || current_.cpu_period.has_value();
  // A burst above the quota is EINVAL from either side, so an update takes it away in between.
  if (cpu.burst.has_value() && changes) {
    Add(hierarchy, "cpu.cfs_burst_us", "0", kIgnoreMissing);
  }
  // quota / period may exceed the parent's at no moment: a shorter period comes after the new
  // quota, a longer one before it.
  const bool quota_first = has_period && cpu.period.value_or(0) < current_.cpu_period.value_or(0);
  const std::string quota = absl::StrCat(std::max<int64_t>(cpu.quota.value_or(0), kUnlimited));
  if (has_quota && quota_first) Add(hierarchy, "cpu.cfs_quota_us", quota);
  if (has_period) Add(hierarchy, "cpu.cfs_period_us", absl::StrCat(*cpu.period));
  if (has_quota && !quota_first) Add(hierarchy, "cpu.cfs_quota_us", quota);
  if (cpu.burst.has_value()) {
    Add(hierarchy, "cpu.cfs_burst_us", absl::StrCat(*cpu.burst),
        *cpu.burst == 0 ? kIgnoreMissing : kWriteStrict);
  }
  if (cpu.realtime_period.value_or(0) != 0) {
    Add(hierarchy, "cpu.rt_period_us", absl::StrCat(*cpu.realtime_period));
  }
  if (cpu.realtime_runtime.value_or(0) != 0) {
    Add(hierarchy, "cpu.rt_runtime_us", absl::StrCat(*cpu.realtime_runtime));
  }
}

void Compiler::CpuV2(int hierarchy, const spec::Cpu& cpu) {
  if (cpu.idle.has_value()) {
    Add(hierarchy, "cpu.idle", absl::StrCat(*cpu.idle),
        *cpu.idle == 0 ? kIgnoreMissing : kWriteStrict);
  }
  if (cpu.shares.value_or(0) != 0 && cpu.idle.value_or(0) == 0) {
    Add(hierarchy, "cpu.weight", absl::StrCat(CpuSharesToWeight(*cpu.shares)));
  }
  const bool changes = current_.cpu_quota.has_value() || current_.cpu_period.has_value();
  if (cpu.burst.has_value() && changes) Add(hierarchy, "cpu.max.burst", "0", kIgnoreMissing);
  const bool has_period = cpu.period.value_or(0) != 0;
  if (cpu.quota.value_or(0) != 0) {
    std::string value = MaxOr(*cpu.quota);
    if (has_period) absl::StrAppend(&value, " ", *cpu.period);
    Add(hierarchy, "cpu.max", std::move(value));
  } else if (has_period) {
    // The file sets both; a period alone keeps the quota that is there.
    Add(hierarchy, "cpu.max",
        absl::StrCat(MaxOr(current_.cpu_quota.value_or(kUnlimited)), " ", *cpu.period));
  }
  if (cpu.burst.has_value()) {
    Add(hierarchy, "cpu.max.burst", absl::StrCat(*cpu.burst),
        *cpu.burst == 0 ? kIgnoreMissing : kWriteStrict);
  }
}

// "0-3,7": checked here so that a typing error is told as one, and nothing else reaches the file.
bool IsListFormat(absl::string_view list) {
  return std::all_of(list.begin(), list.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '-' || c == ',' || c == ':' ||
           c == '/' || c == ' ';
  });
}

absl::Status Compiler::Cpuset(const spec::Cpu& cpu) {
  if (cpu.cpus.empty() && cpu.mems.empty()) return absl::OkStatus();
  if (!IsListFormat(cpu.cpus)) return Invalid(absl::StrCat("CPU list \"", cpu.cpus, "\""));
  if (!IsListFormat(cpu.mems)) return Invalid(absl::StrCat("memory node list \"", cpu.mems, "\""));
  DAVIT_ASSIGN_OR_RETURN(const int hierarchy, Need("cpuset", "the set of CPUs"));
  if (!cpu.cpus.empty()) Add(hierarchy, "cpuset.cpus", cpu.cpus);
  if (!cpu.mems.empty()) Add(hierarchy, "cpuset.mems", cpu.mems);
  return absl::OkStatus();
}

std::optional<int64_t> NonZero(std::optional<int64_t> value) {
  if (value.value_or(0) == 0) return std::nullopt;
  return std::max<int64_t>(*value, kUnlimited);
}

absl::Status Compiler::Memory(const spec::Memory& memory) {
  const std::optional<int64_t> limit = NonZero(memory.limit);
  std::optional<int64_t> swap = NonZero(memory.swap);
  const std::optional<int64_t> reservation = NonZero(memory.reservation);
  const bool disable_oom_killer = memory.disable_oom_killer.value_or(false);
  if (!limit && !swap && !reservation && !memory.swappiness.has_value() && !disable_oom_killer) {
    return absl::OkStatus();
  }
  if (swap && *swap >= 0) {
    const int64_t base = limit.value_or(current_.memory.value_or(kUnlimited));
    if (base < 0) return Invalid("a swap limit needs a memory limit, and there is none");
    if (*swap < base) {
      return Invalid(absl::StrCat("the limit of memory and swap together (", *swap,
                                  ") is below the memory limit (", base, ")"));
    }
  }
  // No memory limit leaves no room for one of memory and swap.
  if (limit == kUnlimited && !swap) swap = kUnlimited;
  if (memory.swappiness.value_or(0) > 100) {
    return Invalid(absl::StrCat("swappiness is ", *memory.swappiness, ", above 100"));
  }
  DAVIT_ASSIGN_OR_RETURN(const int hierarchy, Need("memory", "memory"));
  if (IsV2(hierarchy)) {
    if (disable_oom_killer) {
      return absl::FailedPreconditionError(
          "resources: the OOM killer cannot be disabled in cgroup v2");
    }
    MemoryV2(hierarchy, memory, limit, swap);
    return absl::OkStatus();
  }
  MemoryLimitsV1(hierarchy, limit, swap);
  if (reservation) {
    Add(hierarchy, "memory.soft_limit_in_bytes", absl::StrCat(*reservation));
  }
  if (memory.swappiness.has_value()) {
    Add(hierarchy, "memory.swappiness", absl::StrCat(*memory.swappiness));
  }
  if (memory.disable_oom_killer.has_value()) {
    Add(hierarchy, "memory.oom_control", disable_oom_killer ? "1" : "0");
  }
  return absl::OkStatus();
}

void Compiler::MemoryLimitsV1(int hierarchy, std::optional<int64_t> limit,
                              std::optional<int64_t> swap) {
  constexpr absl::string_view kLimit = "memory.limit_in_bytes";
  constexpr absl::string_view kSwap = "memory.memsw.limit_in_bytes";
  const int64_t now_swap = current_.memory_and_swap.value_or(kUnlimited);
  const int64_t now_limit = current_.memory.value_or(kUnlimited);
  // A new memory limit alone keeps the amount of swap allowed, as it does in v2, where the two are
  // independent. (Above the present sum it would be EINVAL.)
  if (limit && !swap && now_swap >= 0 && now_limit >= 0 && *limit >= 0) {
    swap = *limit + (now_swap - now_limit);
  }
  // limit <= memory and swap must hold after every write: the sum goes up first, and down last.
  // The file is missing where swap accounting is off, and then there is no swap to be limited.
  const bool sum_first = swap && now_swap >= 0 && (*swap < 0 || *swap > now_swap);
  if (swap && sum_first) Add(hierarchy, kSwap, absl::StrCat(*swap), kIgnoreMissing);
  if (limit) Add(hierarchy, kLimit, absl::StrCat(*limit));
  if (swap && !sum_first) Add(hierarchy, kSwap, absl::StrCat(*swap), kIgnoreMissing);
}

void Compiler::MemoryV2(int hierarchy, const spec::Memory& memory, std::optional<int64_t> limit,
                        std::optional<int64_t> swap) {
  if (swap) {
    const int64_t base = limit.value_or(current_.memory.value_or(0));
    Add(hierarchy, "memory.swap.max", *swap < 0 ? "max" : absl::StrCat(*swap - base),
        kIgnoreMissing);
  }
  if (limit) Add(hierarchy, "memory.max", MaxOr(*limit));
  const std::optional<int64_t> reservation = NonZero(memory.reservation);
  if (reservation) Add(hierarchy, "memory.low", MaxOr(*reservation));
  // Swappiness has no file in v2 and is a hint: left out.
}

absl::Status Compiler::Pids(int64_t limit) {
  DAVIT_ASSIGN_OR_RETURN(const int hierarchy, Need("pids", "the number of processes"));
  Add(hierarchy, "pids.max", MaxOr(limit));
  return absl::OkStatus();
}

bool IsPageSize(absl::string_view size) {
  size_t digits = 0;
  while (digits < size.size() && absl::ascii_isdigit(static_cast<unsigned char>(size[digits]))) {
    ++digits;
  }
  const absl::string_view unit = size.substr(digits);
  return digits > 0 && digits <= 6 && (unit == "KB" || unit == "MB" || unit == "GB");
}

absl::Status Compiler::Hugetlb() {
  for (const spec::HugepageLimit& limit : resources_.hugepage_limits) {
    if (!IsPageSize(limit.page_size)) {
      return Invalid(absl::StrCat("huge page size \"", limit.page_size, "\""));
    }
    const int hierarchy = layout_.Find("hugetlb");
    if (hierarchy < 0) continue;
    // Reservations are limited as well, so that a program learns of it at mmap and not by SIGBUS.
    const absl::string_view suffix = IsV2(hierarchy) ? "max" : "limit_in_bytes";
    const std::string value = absl::StrCat(limit.limit);
    Add(hierarchy, absl::StrCat("hugetlb.", limit.page_size, ".", suffix), value, kIgnoreMissing);
    Add(hierarchy, absl::StrCat("hugetlb.", limit.page_size, ".rsvd.", suffix), value,
        kIgnoreMissing);
  }
  return absl::OkStatus();
}

absl::Status CheckWeight(uint16_t weight) {
  if (weight != 0 && (weight < 10 || weight > 1000)) {
    return Invalid(absl::StrCat("block I/O weight is ", weight, ", not 10 to 1000"));
  }
  return absl::OkStatus();
}

std::string DeviceNumber(int64_t major, int64_t minor) { return absl::StrCat(major, ":", minor); }

absl::Status Compiler::BlockIo(const spec::BlockIo& io) {
  DAVIT_RETURN_IF_ERROR(CheckWeight(io.weight.value_or(0)));
  DAVIT_RETURN_IF_ERROR(CheckWeight(io.leaf_weight.value_or(0)));
  for (const spec::WeightDevice& device : io.weight_device) {
    DAVIT_RETURN_IF_ERROR(CheckWeight(device.weight.value_or(0)));
    DAVIT_RETURN_IF_ERROR(CheckWeight(device.leaf_weight.value_or(0)));
  }
  if (const int v1 = layout_.Find("blkio"); v1 >= 0 && !IsV2(v1)) {
    BlockIoV1(v1, io);
  } else if (const int v2 = layout_.Find("io"); v2 >= 0) {
    BlockIoV2(v2, io);
  }
  return absl::OkStatus();
}

void Compiler::BlockIoV1(int hierarchy, const spec::BlockIo& io) {
  // Which of the files is there depends on the I/O scheduler that is loaded.
  auto weight = [&](absl::string_view what, const std::string& value) {
    Add(hierarchy, absl::StrCat("blkio.", what), value, kIgnoreMissing | kIgnoreUnsupported);
    Add(hierarchy, absl::StrCat("blkio.bfq.", what), value, kIgnoreMissing | kIgnoreUnsupported);
  };
  if (io.weight.value_or(0) != 0) weight("weight", absl::StrCat(*io.weight));
  if (io.leaf_weight.value_or(0) != 0) {
    Add(hierarchy, "blkio.leaf_weight", absl::StrCat(*io.leaf_weight), kIgnoreMissing);
  }
  for (const spec::WeightDevice& device : io.weight_device) {
    const std::string number = DeviceNumber(device.major, device.minor);
    if (device.weight.value_or(0) != 0) {
      weight("weight_device", absl::StrCat(number, " ", *device.weight));
    }
    if (device.leaf_weight.value_or(0) != 0) {
      Add(hierarchy, "blkio.leaf_weight_device", absl::StrCat(number, " ", *device.leaf_weight),
          kIgnoreMissing);
    }
  }
  const std::pair<const std::vector<spec::ThrottleDevice>*, const char*> throttles[] = {
      {&io.throttle_read_bps, "blkio.throttle.read_bps_device"},
      {&io.throttle_write_bps, "blkio.throttle.write_bps_device"},
      {&io.throttle_read_iops, "blkio.throttle.read_iops_device"},
      {&io.throttle_write_iops, "blkio.throttle.write_iops_device"},
  };
  for (const auto& [devices, file] : throttles) {
    for (const spec::ThrottleDevice& device : *devices) {
      Add(hierarchy, file,
          absl::StrCat(DeviceNumber(device.major, device.minor), " ", device.rate));
    }
  }
}

void Compiler::BlockIoV2(int hierarchy, const spec::BlockIo& io) {
  if (io.weight.value_or(0) != 0) {
    Add(hierarchy, "io.bfq.weight", absl::StrCat(*io.weight), kIgnoreMissing | kIgnoreUnsupported);
    Add(hierarchy, "io.weight", absl::StrCat("default ", BlkioWeightToIoWeight(*io.weight)),
        kIgnoreMissing | kIgnoreUnsupported);
  }
  for (const spec::WeightDevice& device : io.weight_device) {
    if (device.weight.value_or(0) == 0) continue;
    const std::string number = DeviceNumber(device.major, device.minor);
    Add(hierarchy, "io.bfq.weight", absl::StrCat(number, " ", *device.weight),
        kIgnoreMissing | kIgnoreUnsupported);
    Add(hierarchy, "io.weight", absl::StrCat(number, " ", BlkioWeightToIoWeight(*device.weight)),
        kIgnoreMissing | kIgnoreUnsupported);
  }
  const std::pair<const std::vector<spec::ThrottleDevice>*, const char*> throttles[] = {
      {&io.throttle_read_bps, "rbps"},
      {&io.throttle_write_bps, "wbps"},
      {&io.throttle_read_iops, "riops"},
      {&io.throttle_write_iops, "wiops"},
  };
  for (const auto& [devices, key] : throttles) {
    for (const spec::ThrottleDevice& device : *devices) {
      // 0 lifts a throttle in v1; in v2 the word for it is "max".
      Add(hierarchy, "io.max",
          absl::StrCat(DeviceNumber(device.major, device.minor), " ", key, "=",
                       device.rate == 0 ? "max" : absl::StrCat(device.rate)));
    }
  }
}

absl::Status Compiler::Devices() {
  if (resources_.devices.empty()) return absl::OkStatus();
  DAVIT_ASSIGN_OR_RETURN(std::vector<DeviceRule> rules, NormalizeDeviceRules(resources_.devices));
  // What no rule matches is denied, as in the v2 program; a fresh v1 group allows it.
  if (rules.front().type != 'a') rules.insert(rules.begin(), DeviceRule{});
  const int hierarchy = layout_.Find("devices");
  if (hierarchy < 0) return absl::OkStatus();
  DAVIT_RETURN_IF_ERROR(CheckExpressibleInV1(rules));
  for (const DeviceRule& rule : rules) {
    Add(hierarchy, rule.allow ? "devices.allow" : "devices.deny", FormatV1(rule));
  }
  return absl::OkStatus();
}

absl::Status CheckUnifiedKey(absl::string_view key) {
  const bool plain =
      !key.empty() && key.size() <= 255 && !absl::StrContains(key, "/") &&
      !absl::StrContains(key, "..") && absl::StrContains(key, ".") && !absl::StartsWith(key, ".") &&
      std::all_of(key.begin(), key.end(), [](unsigned char c) { return absl::ascii_isgraph(c); });
  if (!plain) return Invalid(absl::StrCat("unified key \"", key, "\" names no cgroup file"));
  // Core files move and kill processes or change the tree, which is this runtime's work.
  static constexpr std::array<absl::string_view, 3> kCore = {
      "cgroup.max.depth", "cgroup.max.descendants", "cgroup.pressure"};
  if (absl::StartsWith(key, "cgroup.") &&
      std::find(kCore.begin(), kCore.end(), key) == kCore.end()) {
    return Invalid(absl::StrCat("unified key \"", key, "\" is not for configuration"));
  }
  return absl::OkStatus();
}

absl::Status Compiler::Unified() {
  for (const auto& [key, value] : resources_.unified) {
    DAVIT_RETURN_IF_ERROR(CheckUnifiedKey(key));
    const absl::string_view controller = absl::string_view(key).substr(0, key.find('.'));
    int hierarchy = layout_.Unified();
    if (controller != "cgroup" && hierarchy >= 0 && layout_.Find(controller) != hierarchy) {
      hierarchy = -1;
    }
    if (hierarchy < 0) {
      return absl::FailedPreconditionError(absl::StrCat("resources: unified key \"", key,
                                                        "\": cgroup v2 does not have the ",
                                                        controller, " controller on this machine"));
    }
    // Files such as io.max take one line a write.
    for (absl::string_view line : absl::StrSplit(value, '\n', absl::SkipWhitespace())) {
      Add(hierarchy, key, std::string(line));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Write>> CompileResources(const spec::LinuxResources& resources,
                                                    const Layout& layout,
                                                    const CurrentLimits& current) {
  return Compiler(resources, layout, current).Compile();
}

uint64_t CpuSharesToWeight(uint64_t shares) {
  if (shares == 0) return 0;
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  const double l = std::log2(static_cast<double>(shares));
  const double exponent = (l * l + 125 * l) / 612.0 - 7.0 / 34.0;
  return static_cast<uint64_t>(std::ceil(std::pow(10, exponent)));
}

uint64_t BlkioWeightToIoWeight(uint16_t weight) {
  if (weight == 0) return 0;
  const uint64_t clamped = std::clamp<uint64_t>(weight, 10, 1000);
  return 1 + (clamped - 10) * 9999 / 990;
}

std::vector<spec::DeviceCgroupRule> DefaultDeviceRules() {
  std::vector<spec::DeviceCgroupRule> rules;
  auto allow = [&](const char* type, std::optional<int64_t> major, std::optional<int64_t> minor,
                   const char* access) {
    rules.push_back({true, type, major, minor, access});
  };
  allow("c", std::nullopt, std::nullopt, "m");
  allow("b", std::nullopt, std::nullopt, "m");
  for (const int minor : {3, 5, 7, 8, 9}) allow("c", 1, minor, "rwm");  // null .. urandom
  for (const int minor : {0, 1, 2}) allow("c", 5, minor, "rwm");        // tty, console, ptmx
  allow("c", 136, std::nullopt, "rwm");                                 // pseudo-terminals
  return rules;
}

}  // namespace davit::runtime::cgroup
