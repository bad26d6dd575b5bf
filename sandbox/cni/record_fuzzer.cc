// Any bytes as the record of an attachment.

#include "runtime/sys/fuzzing/fuzzer.h"
#include "sandbox/cni/record.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  sandbox::cni::Record record;
  record.sandbox_id = "0123456789abcdef";
  record.netns_path = "/run/netns/davit-0";
  record.interface = "eth0";
  record.config_json = R"({"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]})";
  record.config_file = "/etc/cni/net.d/10-n.conflist";
  record.capability_args = R"({"portMappings":[{"hostPort":80,"containerPort":80}]})";
  record.cni_args = "IgnoreUnknown=1;K8S_POD_NAME=p";
  const std::string adding = sandbox::cni::EncodeRecord(record);
  record.added = true;
  record.result_json = R"({"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}]})";
  return {adding, sandbox::cni::EncodeRecord(record)};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace cni = davit::sandbox::cni;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto record = cni::DecodeRecord(text, "fuzz.json");
  if (!record.ok()) return 0;
  const std::string written = cni::EncodeRecord(*record);
  const auto again = cni::DecodeRecord(written, "again.json");
  DAVIT_FUZZ_CHECK(again.ok());
  DAVIT_FUZZ_CHECK(cni::EncodeRecord(*again) == written);
  return 0;
}
