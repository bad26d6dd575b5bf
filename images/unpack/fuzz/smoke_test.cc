// Runs one fuzzer's entry point over samples of every format, whole and damaged.

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "images/unpack/testing/tar_builder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace davit::images::unpack::testing {
namespace {

int RunOnce(const std::string& input) {
  return LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

TEST(FuzzerSmoke, SurvivesDamagedSamples) {
  const std::string tar = TarBuilder()
                              .Pax({{"path", "p"}, {"GNU.sparse.map", "0,1"}, {"mtime", "1.5"}})
                              .File("f", "x")
                              .Long('L', std::string(200, 'n'))
                              .Dir("d")
                              .Finish();
  const std::vector<std::string> samples = {
      "", "\x07" + tar, "zz" + Gzip(tar), "zz" + Zstd(tar),
      PaxRecord("SCHILY.xattr.user.a", "b") + PaxRecord("GNU.sparse.map", "1,2"),
      // Records: a whiteout of "x", as FromUnpacker.
      std::string("\x22\x07\x0a\x05\x08\x01\x12\x01x")};
  std::mt19937 random(1);
  for (const std::string& sample : samples) {
    EXPECT_EQ(RunOnce(sample), 0);
    for (int round = 0; round < 300 && !sample.empty(); ++round) {
      std::string damaged = sample;
      damaged[random() % damaged.size()] = static_cast<char>(random());
      damaged.resize(1 + random() % damaged.size());
      EXPECT_EQ(RunOnce(damaged), 0);
    }
  }
}

}  // namespace
}  // namespace davit::images::unpack::testing
