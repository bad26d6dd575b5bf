#include "sandbox/merge_resources.h"

#include <algorithm>
#include <optional>
#include <string>

namespace davit::sandbox {
namespace {

template <typename T>
void Take(const std::optional<T>& from, std::optional<T>* to) {
  if (from.has_value()) *to = from;
}

void Take(const std::string& from, std::string* to) {
  if (!from.empty()) *to = from;
}

template <typename T>
T& Present(std::optional<T>* value) {
  return value->has_value() ? **value : value->emplace();
}

void Merge(const runtime::spec::Memory& from, runtime::spec::Memory* to) {
  Take(from.limit, &to->limit);
  Take(from.reservation, &to->reservation);
  Take(from.swap, &to->swap);
  Take(from.swappiness, &to->swappiness);
  Take(from.disable_oom_killer, &to->disable_oom_killer);
}

void Merge(const runtime::spec::Cpu& from, runtime::spec::Cpu* to) {
  Take(from.shares, &to->shares);
  Take(from.quota, &to->quota);
  Take(from.burst, &to->burst);
  Take(from.period, &to->period);
  Take(from.realtime_runtime, &to->realtime_runtime);
  Take(from.realtime_period, &to->realtime_period);
  Take(from.cpus, &to->cpus);
  Take(from.mems, &to->mems);
  Take(from.idle, &to->idle);
}

}  // namespace

runtime::spec::LinuxResources MergeResources(const runtime::spec::LinuxResources& current,
                                             const runtime::spec::LinuxResources& update) {
  runtime::spec::LinuxResources merged = current;
  if (update.memory.has_value()) Merge(*update.memory, &Present(&merged.memory));
  if (update.cpu.has_value()) Merge(*update.cpu, &Present(&merged.cpu));
  Take(update.pids_limit, &merged.pids_limit);
  Take(update.block_io, &merged.block_io);
  for (const runtime::spec::HugepageLimit& limit : update.hugepage_limits) {
    const auto same = std::find_if(
        merged.hugepage_limits.begin(), merged.hugepage_limits.end(),
        [&limit](const auto& existing) { return existing.page_size == limit.page_size; });
    if (same != merged.hugepage_limits.end()) {
      same->limit = limit.limit;
    } else {
      merged.hugepage_limits.push_back(limit);
    }
  }
  for (const auto& [key, value] : update.unified) merged.unified[key] = value;
  return merged;
}

}  // namespace davit::sandbox
