#ifndef DAVIT_SANDBOX_CNI_CONFIG_H_
#define DAVIT_SANDBOX_CNI_CONFIG_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/mutex.h"

namespace davit::sandbox::cni {

struct PluginConfig {
  std::string type;  // the program's file name
  std::string json;  // its configuration object, as in the list
};

// A network configuration list (CNI specification, section 1). Immutable once parsed.
struct NetworkConfig {
  std::string file;  // where it was read, "" if it came from a record
  std::string name;
  std::string cni_version;
  bool disable_check = false;
  std::vector<PluginConfig> plugins;
  std::string json;  // the whole list
};

// True if version `a` is `b` or newer; both "major.minor.patch".
bool VersionAtLeast(absl::string_view a, absl::string_view b);

// Parses a list; with `single`, a lone plugin's configuration (*.conf, *.json), which becomes a
// list of one. InvalidArgument with the file's name and what is wrong with it.
absl::StatusOr<NetworkConfig> ParseNetworkConfig(absl::string_view text, const std::string& file,
                                                 bool single);

// The configuration directory. Of its *.conflist, *.conf and *.json files the first by name counts;
// if it is broken there is no configuration: another one would be a network that nobody chose.
// Thread-safe.
class ConfigDirectory {
 public:
  explicit ConfigDirectory(std::string path) : path_(std::move(path)) {}

  // Looks at names, sizes and times of the files, and reads again only after a change.
  // NotFound without a configuration file; InvalidArgument for a broken one.
  absl::StatusOr<std::shared_ptr<const NetworkConfig>> Get();

 private:
  struct Entry {
    std::string name;
    uint64_t inode = 0;
    int64_t size = 0;
    int64_t modified_ns = 0;
    int64_t changed_ns = 0;
    bool operator==(const Entry&) const = default;
  };

  absl::StatusOr<std::vector<Entry>> Scan() const;
  absl::StatusOr<std::shared_ptr<const NetworkConfig>> Load(const std::string& name) const;

  const std::string path_;
  sys::Mutex mutex_;
  bool loaded_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Entry> entries_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const NetworkConfig> config_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace davit::sandbox::cni

#endif  // DAVIT_SANDBOX_CNI_CONFIG_H_
