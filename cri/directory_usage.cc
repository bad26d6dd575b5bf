#include "cri/directory_usage.h"

#include <fts.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"

namespace davit::cri {

DirectoryUsage MeasureDirectory(const std::string& path) {
  DirectoryUsage usage;
  char* const paths[] = {const_cast<char*>(path.c_str()), nullptr};
  FTS* const walk = ::fts_open(paths, FTS_PHYSICAL | FTS_NOCHDIR | FTS_XDEV, nullptr);
  if (walk == nullptr) return usage;
  std::set<ino_t> linked;
  while (const FTSENT* entry = ::fts_read(walk)) {
    if (entry->fts_info == FTS_DP || entry->fts_info == FTS_NS || entry->fts_info == FTS_ERR) {
      continue;
    }
    const struct stat& st = *entry->fts_statp;
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !linked.insert(st.st_ino).second) continue;
    usage.bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    ++usage.inodes;
  }
  ::fts_close(walk);
  return usage;
}

DirectoryUsage DirectoryUsageCache::Get(const std::string& path) {
  const absl::Time begun = absl::Now();
  {
    sys::MutexLock lock(&mutex_);
    const auto found = entries_.find(path);
    if (found != entries_.end() && begun < found->second.fresh_until) return found->second.usage;
  }
  const DirectoryUsage usage = MeasureDirectory(path);
  const absl::Time ended = absl::Now();
  sys::MutexLock lock(&mutex_);
  entries_[path] = {usage, ended + std::max(least_age_, 100 * (ended - begun))};
  return usage;
}

void DirectoryUsageCache::Keep(const std::set<std::string>& paths) {
  sys::MutexLock lock(&mutex_);
  std::erase_if(entries_, [&](const auto& entry) { return paths.count(entry.first) == 0; });
}

}  // namespace davit::cri
