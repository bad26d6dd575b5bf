// Runs one fuzzer's entry point over its seeds, over damaged copies of them, and over the inputs
// that once broke it: the same on every machine, no engine needed.

#include <dirent.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {
namespace {

constexpr int kDamagedCopies = 200;

void RunOnce(const std::string& input) {
  // An exact copy on the heap, so that a sanitizer sees a read of one byte too many.
  const auto copy = std::make_unique<uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), copy.get());
  EXPECT_EQ(LLVMFuzzerTestOneInput(copy.get(), input.size()), 0);
}

// "//images/unpack:pax_fuzzer_test" -> "images/unpack/fuzz_inputs/pax_fuzzer"
std::string InputDirectory() {
  const char* target = getenv("TEST_TARGET");
  if (target == nullptr) return "";
  absl::string_view name = target;
  absl::ConsumePrefix(&name, "//");
  absl::ConsumeSuffix(&name, "_test");
  return absl::StrReplaceAll(name, {{":", "/fuzz_inputs/"}});
}

std::vector<std::string> KeptInputs(const std::string& directory) {
  std::vector<std::string> paths;
  DIR* const stream = opendir(directory.c_str());
  if (stream == nullptr) return paths;
  while (const dirent* entry = readdir(stream)) {
    if (entry->d_name[0] != '.') paths.push_back(absl::StrCat(directory, "/", entry->d_name));
  }
  closedir(stream);
  std::sort(paths.begin(), paths.end());
  return paths;
}

std::string Damage(std::string input, std::mt19937* random) {
  const auto below = [&](size_t bound) { return (*random)() % bound; };
  switch (below(4)) {
    case 0:
      input.resize(1 + below(input.size()));
      break;
    case 1:
      input.erase(below(input.size()), 1 + below(8));
      break;
    case 2:
      input.insert(below(input.size()), input.substr(below(input.size()), 1 + below(32)));
      break;
    default:
      break;
  }
  if (!input.empty()) input[below(input.size())] = static_cast<char>((*random)());
  return input;
}

TEST(Fuzzer, SurvivesItsSeedsAndDamagedOnes) {
  RunOnce("");
  std::mt19937 random(1);
  const std::vector<std::string> seeds = Seeds();
  EXPECT_FALSE(seeds.empty());
  for (const std::string& seed : seeds) {
    RunOnce(seed);
    for (int i = 0; i < kDamagedCopies && !seed.empty(); ++i) RunOnce(Damage(seed, &random));
  }
}

TEST(Fuzzer, SurvivesTheInputsThatOnceBrokeIt) {
  for (const std::string& path : KeptInputs(InputDirectory())) {
    SCOPED_TRACE(path);
    std::ifstream file(path, std::ios::binary);
    ASSERT_TRUE(file.good());
    RunOnce(std::string(std::istreambuf_iterator<char>(file), {}));
  }
}

}  // namespace
}  // namespace davit::fuzzing
