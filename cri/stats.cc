#include "cri/stats.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using runtime::cgroup::Pressure;
using runtime::cgroup::PressureLine;

constexpr int64_t kLeastInterval = 100 * 1000 * 1000;

void ToPsiData(const PressureLine& line, v1::PsiData* out) {
  out->set_total(line.total_us * 1000);
  out->set_avg10(line.avg10);
  out->set_avg60(line.avg60);
  out->set_avg300(line.avg300);
}

template <typename Usage>
void SetPsi(const std::optional<Pressure>& pressure, Usage* out) {
  if (!pressure) return;
  ToPsiData(pressure->full, out->mutable_psi()->mutable_full());
  ToPsiData(pressure->some, out->mutable_psi()->mutable_some());
}

uint64_t Minus(uint64_t from, uint64_t what) { return from > what ? from - what : 0; }

}  // namespace

std::optional<uint64_t> CpuRates::Add(const std::string& id, int64_t timestamp_ns,
                                      uint64_t usage_ns) {
  sys::MutexLock lock(&mutex_);
  const auto [it, first] = samples_.try_emplace(id, Sample{timestamp_ns, usage_ns, std::nullopt});
  Sample& sample = it->second;
  const int64_t interval = timestamp_ns - sample.timestamp;
  if (first || interval < kLeastInterval) return sample.rate;
  const double used = static_cast<double>(Minus(usage_ns, sample.usage));
  sample = {timestamp_ns, usage_ns,
            static_cast<uint64_t>(used * 1e9 / static_cast<double>(interval))};
  return sample.rate;
}

void CpuRates::Keep(const std::set<std::string>& ids) {
  sys::MutexLock lock(&mutex_);
  std::erase_if(samples_, [&](const auto& entry) { return ids.count(entry.first) == 0; });
}

void ToCpuUsage(const runtime::cgroup::Stats& stats, std::optional<uint64_t> nano_cores,
                v1::CpuUsage* out) {
  if (!stats.cpu) return;
  out->set_timestamp(stats.timestamp_ns);
  out->mutable_usage_core_nano_seconds()->set_value(stats.cpu->usage_ns);
  if (nano_cores) out->mutable_usage_nano_cores()->set_value(*nano_cores);
  SetPsi(stats.cpu_pressure, out);
}

void ToMemoryUsage(const runtime::cgroup::Stats& stats, v1::MemoryUsage* out) {
  if (!stats.memory) return;
  const runtime::cgroup::MemoryStats& memory = *stats.memory;
  out->set_timestamp(stats.timestamp_ns);
  out->mutable_working_set_bytes()->set_value(memory.working_set);
  if (memory.limit) {
    out->mutable_available_bytes()->set_value(Minus(*memory.limit, memory.working_set));
  }
  out->mutable_usage_bytes()->set_value(memory.usage);
  out->mutable_rss_bytes()->set_value(memory.rss);
  out->mutable_page_faults()->set_value(memory.page_faults);
  out->mutable_major_page_faults()->set_value(memory.major_page_faults);
  SetPsi(stats.memory_pressure, out);
}

void ToSwapUsage(const runtime::cgroup::Stats& stats, v1::SwapUsage* out) {
  if (!stats.memory) return;
  out->set_timestamp(stats.timestamp_ns);
  out->mutable_swap_usage_bytes()->set_value(stats.memory->swap);
  if (stats.memory->swap_limit) {
    out->mutable_swap_available_bytes()->set_value(
        Minus(*stats.memory->swap_limit, stats.memory->swap));
  }
}

void ToIoUsage(const runtime::cgroup::Stats& stats, v1::IoUsage* out) {
  out->set_timestamp(stats.timestamp_ns);
  SetPsi(stats.io_pressure, out);
}

void ToNetworkUsage(absl::string_view net_dev, int64_t timestamp_ns, v1::NetworkUsage* out) {
  out->set_timestamp(timestamp_ns);
  const v1::NetworkInterfaceUsage* main = nullptr;
  std::vector<v1::NetworkInterfaceUsage> interfaces;
  for (const absl::string_view line : absl::StrSplit(net_dev, '\n')) {
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos) continue;  // one of the two heading lines
    const absl::string_view name = absl::StripAsciiWhitespace(line.substr(0, colon));
    const std::vector<absl::string_view> fields =
        absl::StrSplit(line.substr(colon + 1), ' ', absl::SkipEmpty());
    uint64_t values[16];
    if (name == "lo" || fields.size() < 16) continue;
    bool numbers = true;
    for (size_t i = 0; i < 16; ++i) numbers = absl::SimpleAtoi(fields[i], &values[i]) && numbers;
    if (!numbers) continue;
    v1::NetworkInterfaceUsage& usage = interfaces.emplace_back();
    usage.set_name(std::string(name));
    usage.mutable_rx_bytes()->set_value(values[0]);
    usage.mutable_rx_errors()->set_value(values[2]);
    usage.mutable_tx_bytes()->set_value(values[8]);
    usage.mutable_tx_errors()->set_value(values[10]);
  }
  for (const v1::NetworkInterfaceUsage& usage : interfaces) {
    if (main == nullptr || usage.name() == "eth0") main = &usage;
  }
  for (const v1::NetworkInterfaceUsage& usage : interfaces) {
    if (&usage != main) *out->add_interfaces() = usage;
  }
  if (main != nullptr) *out->mutable_default_interface() = *main;
}

}  // namespace davit::cri
