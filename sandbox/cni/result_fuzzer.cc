// Any bytes as what a plugin prints for ADD.

#include <arpa/inet.h>

#include "runtime/sys/fuzzing/fuzzer.h"
#include "sandbox/cni/arguments.h"
#include "sandbox/cni/result.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  return {
      R"({"cniVersion":"1.0.0","interfaces":[{"name":"b0","mac":"aa:bb:cc:dd:ee:ff"},)"
      R"({"name":"eth0","sandbox":"/run/netns/x"}],"ips":[{"address":"10.0.0.2/24","gateway":)"
      R"("10.0.0.1","interface":1},{"address":"fd00::2/64","interface":0}],"routes":[],"dns":{}})",
      R"({"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.3/16","gateway":"10.1.0.1"},)"
      R"("ip6":{"ip":"fd00::5/64"}})",
      R"({"cniVersion":"0.3.1","ips":[{"version":"4","address":"192.168.1.2/32"}]})",
      R"({"code":7,"msg":"m","details":"d"})",
  };
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace cni = davit::sandbox::cni;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  // As the previous result of the next plugin.
  (void)cni::MakePluginInput(R"({"type":"portmap"})", "net", "1.0.0", "{}", text);
  (void)cni::ParseQuantity(text);
  const auto ips = cni::ParseResultIps(text);
  if (!ips.ok()) return 0;
  for (const std::string& ip : *ips) {
    unsigned char address[16];
    DAVIT_FUZZ_CHECK(inet_pton(AF_INET, ip.c_str(), address) == 1 ||
                     inet_pton(AF_INET6, ip.c_str(), address) == 1);
  }
  return 0;
}
