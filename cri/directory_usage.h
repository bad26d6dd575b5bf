#ifndef DAVIT_CRI_DIRECTORY_USAGE_H_
#define DAVIT_CRI_DIRECTORY_USAGE_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "runtime/sys/mutex.h"

namespace davit::cri {

struct DirectoryUsage {
  uint64_t bytes = 0;   // of blocks, as du counts them
  uint64_t inodes = 0;  // each once, whatever its links
};

// Walks a tree without following links or leaving its file system. What vanishes meanwhile, or
// cannot be read, does not count.
DirectoryUsage MeasureDirectory(const std::string& path);

// Measurements that are kept for a while, since a walk can take long: at least for `least_age`, and
// for a hundred times as long as the walk took. Thread-safe; no lock is held while it walks.
class DirectoryUsageCache {
 public:
  explicit DirectoryUsageCache(absl::Duration least_age) : least_age_(least_age) {}

  // Measures at once if there is nothing fresh.
  DirectoryUsage Get(const std::string& path);
  // Forgets what is not in `paths`.
  void Keep(const std::set<std::string>& paths);

 private:
  struct Entry {
    DirectoryUsage usage;
    absl::Time fresh_until;
  };
  const absl::Duration least_age_;
  sys::Mutex mutex_;
  std::map<std::string, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::cri

#endif  // DAVIT_CRI_DIRECTORY_USAGE_H_
