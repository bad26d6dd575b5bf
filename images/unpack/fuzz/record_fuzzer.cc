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
