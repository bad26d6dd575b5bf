#ifndef DAVIT_CRI_CONFIG_H_
#define DAVIT_CRI_CONFIG_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "cri/log.h"
#include "images/image_service.h"

namespace davit::cri {

// The daemon's configuration: /etc/davit/config.toml, which cri/config.example.toml documents key
// by key. The values here are the defaults; flags of davitd override the file.
struct Config {
  std::string root = "/var/lib/davit";  // images, writable layers: outlives a reboot
  std::string state = "/run/davit";     // pods: dies at reboot
  std::string listen;                   // "" = <state>/davit.sock
  LogLevel log_level = LogLevel::kInfo;
  std::string helper_dir;  // of davit-pod, davit-init, davit-unpack; "" = beside davitd
  std::string cgroup_parent = "/davit";
  std::string netns_dir = "/run/netns";
  std::string faults_path;  // by flag alone, for tests; "" = no faults
  bool upgrade_supervisors = true;

  // [containers]
  bool refuse_missing_host_paths = false;
  bool unprivileged_ports = true;
  bool unprivileged_icmp = true;

  // [logs]
  uint64_t log_buffer_size = 1024 * 1024;  // of each container
  bool log_drop_when_full = false;

  // [cni]
  std::string cni_conf_dir = "/etc/cni/net.d";
  std::vector<std::string> cni_bin_dirs = {"/usr/lib/cni", "/opt/cni/bin"};
  absl::Duration cni_timeout = absl::Seconds(120);

  // [images]
  int max_parallel_layers = 3;
  bool keep_layer_blobs = false;
  absl::Duration stall_timeout = absl::Seconds(60);
  std::vector<std::string> pinned_images;

  // [registries."host"]
  std::map<std::string, images::RegistryOptions> registries;

  std::string socket_path() const { return listen.empty() ? state + "/davit.sock" : listen; }
};

// Parses a whole file. `name` is what errors call it. InvalidArgument with "name:line:column: " in
// front for a syntax error, a duplicate key, an unknown key (which names the nearest known one), a
// wrong type, or a value out of its range.
absl::StatusOr<Config> ParseConfig(absl::string_view text, absl::string_view name);

// Reads and parses `path`. A missing file is the defaults if `may_be_missing`, else NotFound.
absl::StatusOr<Config> LoadConfig(const std::string& path, bool may_be_missing);

// The effective configuration as JSON, for `crictl info`. Holds no secrets.
std::string ConfigJson(const Config& config);

}  // namespace davit::cri

#endif  // DAVIT_CRI_CONFIG_H_
