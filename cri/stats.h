#ifndef DAVIT_CRI_STATS_H_
#define DAVIT_CRI_STATS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "proto/api.pb.h"
#include "runtime/cgroup/stats.h"
#include "runtime/sys/mutex.h"

// What cgroups and /proc count -> CRI's usage messages. Pure but for CpuRates; thread-safe.
namespace davit::cri {

// CPU use a second, from one call to the next: a rate needs two samples. Thread-safe.
class CpuRates {
 public:
  // Nanocores since the last sample of `id`; empty for the first. Samples closer than 100 ms to the
  // last give that one's rate again: a shorter time measures the scheduler's tick.
  std::optional<uint64_t> Add(const std::string& id, int64_t timestamp_ns, uint64_t usage_ns);
  void Keep(const std::set<std::string>& ids);

 private:
  struct Sample {
    int64_t timestamp = 0;
    uint64_t usage = 0;
    std::optional<uint64_t> rate;
  };
  sys::Mutex mutex_;
  std::map<std::string, Sample> samples_ ABSL_GUARDED_BY(mutex_);
};

void ToCpuUsage(const runtime::cgroup::Stats& stats, std::optional<uint64_t> nano_cores,
                ::runtime::v1::CpuUsage* out);
void ToMemoryUsage(const runtime::cgroup::Stats& stats, ::runtime::v1::MemoryUsage* out);
void ToSwapUsage(const runtime::cgroup::Stats& stats, ::runtime::v1::SwapUsage* out);
void ToIoUsage(const runtime::cgroup::Stats& stats, ::runtime::v1::IoUsage* out);

// The text of /proc/PID/net/dev (man 5 proc_pid_net). Without the loopback; eth0, or else the
// first, is the default interface.
void ToNetworkUsage(absl::string_view net_dev, int64_t timestamp_ns,
                    ::runtime::v1::NetworkUsage* out);

}  // namespace davit::cri

#endif  // DAVIT_CRI_STATS_H_
