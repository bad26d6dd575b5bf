// Any bytes, cut anywhere, as a tar stream. The first byte chooses the pieces.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "images/unpack/tar_parser.h"
#include "images/unpack/testing/tar_builder.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  using images::unpack::testing::TarBuilder;
  const std::string tar = TarBuilder()
                              .Pax({{"path", "p"}, {"GNU.sparse.map", "0,1"}, {"mtime", "1.5"}})
                              .File("f", "x")
                              .Long('L', std::string(200, 'n'))
                              .Dir("d")
                              .Finish();
  const std::string others = TarBuilder()
                                 .Symlink("s", "../t")
                                 .HardLink("h", "f")
                                 .Device("c", '3', 1, 3)
                                 .Pax({{"GNU.sparse.major", "1"},
                                       {"GNU.sparse.minor", "0"},
                                       {"GNU.sparse.realsize", "10"},
                                       {"GNU.sparse.name", "sparse"}})
                                 .File("g", "1\n0\n5\n" + std::string(505, '\0') + "hello")
                                 .Pax({{"comment", "c"}}, 'g')
                                 .Long('K', "target")
                                 .Symlink("l", "x")
                                 .Finish();
  return {"\x07" + tar, "\xff" + others, std::string(1, '\0') + tar};
}

}  // namespace davit::fuzzing

namespace {

using davit::images::unpack::EntryType;
using davit::images::unpack::TarEntry;
using davit::images::unpack::TarParser;
using davit::images::unpack::TarVisitor;

// Checks what the parser promises of every entry.
class Checker : public TarVisitor {
 public:
  absl::Status OnEntry(const TarEntry& entry) override {
    if (open_ || entry.path.empty() || entry.path.size() > 4095 || entry.mode > 07777) abort();
    if (entry.type != EntryType::kFile && entry.size != 0) abort();
    open_ = true;
    size_ = entry.size;
    end_ = 0;
    return absl::OkStatus();
  }
  absl::Status OnData(uint64_t offset, absl::string_view data) override {
    if (!open_ || offset < end_ || data.size() > size_ || offset > size_ - data.size()) abort();
    end_ = offset + data.size();
    return absl::OkStatus();
  }
  absl::Status OnEntryEnd() override {
    if (!open_) abort();
    open_ = false;
    return absl::OkStatus();
  }

 private:
  bool open_ = false;
  uint64_t size_ = 0;
  uint64_t end_ = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = data[0] + size_t{1};
  absl::string_view rest(reinterpret_cast<const char*>(data + 1), size - 1);
  Checker checker;
  TarParser parser(&checker);
  while (!rest.empty()) {
    if (!parser.Push(rest.substr(0, piece)).ok()) return 0;
    rest.remove_prefix(std::min(piece, rest.size()));
  }
  (void)parser.Finish();
  return 0;
}
