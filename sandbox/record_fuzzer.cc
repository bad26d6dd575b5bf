// Any bytes as the record of a pod ('p' in front), of a container ('c') or of a status ('s').

#include "proto/state.pb.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/fuzzing/fuzzer.h"
#include "sandbox/record_conversion.h"
#include "sandbox/records.h"
#include "sandbox/status_record.h"

namespace davit::fuzzing {
namespace {

// Of no layer above: any metadata is good.
class AnyMetadata final : public sandbox::Metadata {
 public:
  explicit AnyMetadata(absl::string_view bytes) : bytes_(bytes) {}
  std::string Serialize() const override { return bytes_; }

 private:
  const std::string bytes_;
};

sandbox::MetadataCodec Codec() {
  const auto parse = [](absl::string_view bytes) -> absl::StatusOr<sandbox::MetadataPtr> {
    return std::make_shared<const AnyMetadata>(bytes);
  };
  sandbox::MetadataCodec codec;
  codec.parse_pod = parse;
  codec.parse_container = parse;
  return codec;
}

std::string StatusFile() {
  std::string path = "/tmp/davit-fuzz-status.XXXXXX";
  const int fd = mkstemp(path.data());
  DAVIT_FUZZ_CHECK(fd >= 0);
  auto writer = sandbox::StatusWriter::Open(path);
  supervisor::v1::ContainerState state;
  state.set_container_id("c1");
  state.set_phase(supervisor::v1::ContainerState::RUNNING);
  state.set_pid(7);
  if (writer.ok()) (void)writer->Write(state);
  state.set_phase(supervisor::v1::ContainerState::EXITED);
  state.set_message("killed");
  if (writer.ok()) (void)writer->Write(state);
  std::string bytes(sandbox::kStatusFileSize, '\0');
  const ssize_t n = pread(fd, bytes.data(), bytes.size(), 0);
  close(fd);
  unlink(path.c_str());
  bytes.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return bytes;
}

}  // namespace

void Pod(absl::string_view file) {
  // The checksum would keep the rest out of reach: the payload is also taken as it is.
  const auto payload = sandbox::UnframeRecord("DAVITPOD", file);
  state::v1::PodRecord record;
  const std::string bytes = payload.ok() ? *payload : std::string(file);
  if (!record.ParseFromString(bytes)) return;
  const auto view = sandbox::FromRecord(record, "/run/davit/pods/p", Codec());
  if (!view.ok()) return;
  state::v1::PodRecord written;
  sandbox::ToRecord(*view, &written);
  const auto again = sandbox::FromRecord(written, "/run/davit/pods/p", Codec());
  DAVIT_FUZZ_CHECK(again.ok());
  DAVIT_FUZZ_CHECK(again->id == view->id && again->ips == view->ips);
}

void Container(absl::string_view file) {
  const auto payload = sandbox::UnframeRecord("DAVITCTR", file);
  state::v1::ContainerRecord record;
  const std::string bytes = payload.ok() ? *payload : std::string(file);
  if (!record.ParseFromString(bytes)) return;
  (void)sandbox::FromRecord(record, "/run/davit/pods/p/containers/c", "/var/lib/davit/c", Codec());
}

std::vector<std::string> Seeds() {
  state::v1::PodRecord pod;
  pod.set_format_version(1);
  pod.set_boot_id("b");
  pod.set_id("0123");
  pod.set_created_at(5);
  pod.set_ready(true);
  pod.set_name("n");
  pod.set_hostname("h");
  pod.set_network_mode(1);
  (*pod.mutable_sysctls())["net.ipv4.ip_forward"] = "1";
  pod.add_dns_servers("10.0.0.1");
  pod.add_port_mappings()->set_host_port(80);
  (*pod.mutable_annotations())["a"] = "b";
  pod.set_metadata("m");
  pod.add_ips("10.0.0.2");
  state::v1::ContainerRecord container;
  container.set_format_version(1);
  container.set_id("4567");
  container.set_pod_id("0123");
  container.set_pid_mode(2);
  container.set_stop_signal(15);
  container.add_lower_dirs("/l");
  container.set_ended(true);
  container.set_exit_code(137);
  return {"p" + pod.SerializeAsString(),
          "p" + sandbox::FrameRecord("DAVITPOD", pod.SerializeAsString()),
          "c" + container.SerializeAsString(),
          "c" + sandbox::FrameRecord("DAVITCTR", container.SerializeAsString()),
          "s" + StatusFile()};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const absl::string_view file(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0]) {
    case 'p':
      davit::fuzzing::Pod(file);
      break;
    case 'c':
      davit::fuzzing::Container(file);
      break;
    case 's':
      (void)davit::sandbox::ParseStatus(file);
      break;
    default:
      break;
  }
  return 0;
}
