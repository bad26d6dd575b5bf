#ifndef DAVIT_CRI_OPTIONS_H_
#define DAVIT_CRI_OPTIONS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cri/config.h"

namespace davit::cri {

inline constexpr char kDefaultConfigPath[] = "/etc/davit/config.toml";

// davitd's command line. What is set overrides the configuration file, also when that is read
// again.
struct Options {
  std::optional<std::string> config_path;  // absent: the default, which need not exist
  bool check_config = false;
  bool version = false;
  bool list_steps = false;                 // for tests: print the operations and their steps
  std::optional<std::string> faults_path;  // for tests: sys::Faults::FromFile
  std::string help;                        // not empty: print it and end

  std::optional<std::string> root;
  std::optional<std::string> state;
  std::optional<std::string> listen;
  std::optional<std::string> log_level;
  std::optional<std::string> helper_dir;
  std::optional<std::string> cgroup_parent;
  std::optional<std::string> netns_dir;
  std::optional<std::string> cni_conf_dir;
  std::vector<std::string> cni_bin_dirs;
};

// InvalidArgument says which argument is wrong.
absl::StatusOr<Options> ParseOptions(int argc, const char* const* argv);

// The file's values with the flags over them.
absl::StatusOr<Config> EffectiveConfig(const Options& options);

}  // namespace davit::cri

#endif  // DAVIT_CRI_OPTIONS_H_
