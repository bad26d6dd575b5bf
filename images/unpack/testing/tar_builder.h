#ifndef DAVIT_IMAGES_UNPACK_TESTING_TAR_BUILDER_H_
#define DAVIT_IMAGES_UNPACK_TESTING_TAR_BUILDER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace davit::images::unpack::testing {

// The fields of one header block, as a test wants to write them: also wrong ones.
struct Header {
  std::string name;
  char type = '0';
  uint64_t mode = 0644;
  int64_t uid = 0;
  int64_t gid = 0;
  int64_t size = -1;  // -1: of the data
  int64_t mtime = 1700000000;
  std::string link;
  std::string magic = std::string("ustar\00000", 8);
  std::string prefix;
  uint32_t major = 0;
  uint32_t minor = 0;
};

// Writes tar archives byte by byte, for tests.
class TarBuilder {
 public:
  TarBuilder& Add(const Header& header, absl::string_view data = "");
  TarBuilder& File(const std::string& name, absl::string_view data = "", uint64_t mode = 0644);
  TarBuilder& Dir(const std::string& name, uint64_t mode = 0755);
  TarBuilder& Symlink(const std::string& name, const std::string& target);
  TarBuilder& HardLink(const std::string& name, const std::string& target);
  TarBuilder& Device(const std::string& name, char type, uint32_t major, uint32_t minor);
  // An extended header with these records, for the next entry.
  TarBuilder& Pax(const std::vector<std::pair<std::string, std::string>>& records, char type = 'x');
  // A GNU long name ('L') or long link target ('K').
  TarBuilder& Long(char type, const std::string& text);
  TarBuilder& Raw(absl::string_view bytes);

  const std::string& unfinished() const { return out_; }
  // With the end mark.
  std::string Finish() const;

 private:
  std::string out_;
};

// One block, its checksum right.
std::string HeaderBlock(const Header& header, uint64_t data_size);
// Puts the right checksum into a block that was changed.
void FixChecksum(std::string* block);
std::string PaxRecord(const std::string& key, const std::string& value);
std::string Gzip(absl::string_view data);  // by zlib
std::string Zstd(absl::string_view data);

}  // namespace davit::images::unpack::testing

#endif  // DAVIT_IMAGES_UNPACK_TESTING_TAR_BUILDER_H_
