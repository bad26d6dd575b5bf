#ifndef DAVIT_IMAGES_UNPACK_TAR_ENTRY_H_
#define DAVIT_IMAGES_UNPACK_TAR_ENTRY_H_

#include <sys/types.h>
#include <time.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace davit::images::unpack {

enum class EntryType { kFile, kDirectory, kSymlink, kHardLink, kCharDevice, kBlockDevice, kFifo };

// One entry of a tar stream, with its extension headers merged in. Names are as the archive has
// them (never empty, no NUL byte, at most 4095 bytes) and not yet cleaned.
struct TarEntry {
  EntryType type = EntryType::kFile;
  std::string path;
  std::string link;   // of kSymlink and kHardLink
  uint64_t size = 0;  // logical size of a file, with its holes; 0 for every other type
  mode_t mode = 0;    // permission bits, set-user-ID, set-group-ID and sticky only
  uint32_t uid = 0;
  uint32_t gid = 0;
  timespec mtime{};
  std::optional<timespec> atime;
  uint32_t major = 0;
  uint32_t minor = 0;
  std::vector<std::pair<std::string, std::string>> xattrs;
  bool sparse = false;
};

}  // namespace davit::images::unpack

#endif  // DAVIT_IMAGES_UNPACK_TAR_ENTRY_H_
