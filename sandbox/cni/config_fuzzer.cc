// Any bytes as a network configuration. The first byte chooses between a list and a lone plugin.

#include "runtime/sys/fuzzing/fuzzer.h"
#include "sandbox/cni/arguments.h"
#include "sandbox/cni/config.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  return {
      R"(0{"cniVersion":"1.0.0","name":"net","disableCheck":true,"plugins":[{"type":"bridge",)"
      R"("bridge":"b0","ipam":{"type":"host-local","ranges":[[{"subnet":"10.0.0.0/24"}]]}},)"
      R"({"type":"portmap","capabilities":{"portMappings":true,"bandwidth":true}}]})",
      R"(1{"cniVersion":"0.4.0","name":"net","type":"ptp","ipam":{}})",
      R"(0{"cniVersion":"0.3.1","cniVersions":["0.4.0","1.1.0"],"name":"n","plugins":)"
      R"([{"type":"loopback","capabilities":{}}]})",
  };
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace cni = davit::sandbox::cni;
  if (size == 0) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data + 1), size - 1);
  const auto config = cni::ParseNetworkConfig(text, "fuzz.conflist", (data[0] & 1) != 0);
  if (!config.ok()) return 0;
  DAVIT_FUZZ_CHECK(!config->plugins.empty() && !config->name.empty());
  // The list in its canonical form is one that is understood the same way: records keep it.
  const auto again = cni::ParseNetworkConfig(config->json, "again", false);
  DAVIT_FUZZ_CHECK(again.ok());
  DAVIT_FUZZ_CHECK(again->plugins.size() == config->plugins.size() && again->name == config->name);
  for (const cni::PluginConfig& plugin : config->plugins) {
    DAVIT_FUZZ_CHECK(!plugin.type.empty() && plugin.type.find('/') == std::string::npos);
    const auto input = cni::MakePluginInput(plugin.json, config->name, config->cni_version,
                                            R"({"portMappings":[]})", "");
    if (input.ok()) DAVIT_FUZZ_CHECK(!input->empty());
  }
  (void)cni::VersionAtLeast(config->cni_version, "0.4.0");
  return 0;
}
