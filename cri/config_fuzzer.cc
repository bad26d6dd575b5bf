// Any bytes as config.toml.

#include "cri/config.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  return {R"(
root = "/var/lib/davit"
state = "/run/davit"
listen = '/run/x.sock'
log_level = "debug"
cgroup_parent = "/davit"
[containers]
unprivileged_ports = false
[cni]
conf_dir = "/etc/cni/net.d"
bin_dirs = ["/a", "/b"]
timeout_seconds = 120
[images]
max_parallel_layers = 5
keep_layer_blobs = true
stall_timeout_seconds = 90
pinned = ["registry.k8s.io/pause:3.9"]
[registries."docker.io"]
mirrors = ["https://mirror.example.com"]
ca = "/etc/ca.pem"
insecure_http = false
skip_verify = true
)",
          "x = [1, 2.5, 0x1f, 1979-05-27T07:32:00Z, {a.b = \"\"\"m\"\"\"}]\n[[t]]\n[[t]]\n",
          "root = 5\n", "[images]\nmax_parallel_layers = -1\n"};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = davit::cri::ParseConfig(text, "fuzz.toml");
  if (!config.ok()) return 0;
  DAVIT_FUZZ_CHECK(!config->root.empty() && !config->state.empty());
  DAVIT_FUZZ_CHECK(config->max_parallel_layers > 0);
  DAVIT_FUZZ_CHECK(config->cni_timeout > absl::ZeroDuration());
  (void)davit::cri::ConfigJson(*config);
  return 0;
}
