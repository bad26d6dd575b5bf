// Any bytes as an image config, and as an image's user.

#include "images/document/image_config.h"
#include "images/document/manifest.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  const std::string diff_id = "\"sha256:" + std::string(64, 'a') + "\"";
  return {
      R"({"architecture":"amd64","os":"linux","variant":"","created":"2020-01-01T00:00:00Z",)"
      R"("config":{"User":"app:users","Env":["PATH=/bin","A="],"Entrypoint":["/e"],"Cmd":["c"],)"
      R"("WorkingDir":"/w","Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":{}},"Labels":{"a":"b"},)"
      R"("StopSignal":"SIGRTMIN+3","ArgsEscaped":true},"rootfs":{"type":"layers","diff_ids":[)" +
          diff_id + "," + diff_id + R"(]},"history":[{"created_by":"x","empty_layer":true}]})",
      R"({"architecture":"arm64","os":"linux","config":null,"rootfs":{"type":"layers",)"
      R"("diff_ids":[]}})",
      "1000:1000",
      "app",
      "4294967295",
      ":5",
  };
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace images = davit::images;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto user = images::ParseImageUser(text); user.ok()) {
    DAVIT_FUZZ_CHECK(!user->uid.has_value() || *user->uid <= INT32_MAX);
    DAVIT_FUZZ_CHECK(!user->gid.has_value() || *user->gid <= INT32_MAX);
  }
  const auto config = images::ParseImageConfig(text);
  if (!config.ok()) return 0;
  DAVIT_FUZZ_CHECK(config->diff_ids.size() <= images::kMaxLayers);
  DAVIT_FUZZ_CHECK(images::ParseImageUser(config->config.user).ok());
  return 0;
}
