// Any bytes as a message from a compromised helper, applied to an empty directory. Run as root in a
// scratch directory; nothing may appear outside of it.

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "images/unpack/record_applier.h"
#include "proto/unpack.pb.h"
#include "runtime/sys/file.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  using unpack::v1::Record;
  std::vector<std::string> seeds;
  std::string all;
  for (int kind = Record::WHITEOUT; kind <= Record::LOWER_LINK; ++kind) {
    unpack::v1::FromUnpacker message;
    Record* record = message.mutable_records()->add_records();
    record->set_kind(static_cast<Record::Kind>(kind));
    record->set_path("d/p" + std::to_string(kind));
    record->set_target(kind == Record::DEVICE_LINK ? "d/p3" : "t");
    record->set_mode(0644);
    record->set_device_major(1);
    record->set_device_minor(3);
    record->set_name("trusted.a");
    record->set_value("v");
    seeds.push_back(message.SerializeAsString());
    all += seeds.back();  // of one field all add up
  }
  seeds.push_back(all);
  return seeds;
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  davit::unpack::v1::FromUnpacker message;
  if (!message.ParseFromArray(data, static_cast<int>(size)) || !message.has_records()) return 0;
  std::string path = "/tmp/unpack-fuzz.XXXXXX";
  if (mkdtemp(path.data()) == nullptr) abort();
  {
    const davit::sys::UniqueFd staging(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    davit::images::unpack::RecordApplier applier(staging.get(), {});
    for (const auto& record : message.records().records()) {
      if (!applier.Apply(record).ok()) break;
    }
  }
  (void)davit::sys::RemoveTreeAt(AT_FDCWD, path);
  return 0;
}
