// With DAVIT_FUZZ_SEEDS=DIRECTORY a fuzzing binary writes its seeds there, one a file, and ends.

#include <cstdio>
#include <cstdlib>
#include <string>

#include "runtime/sys/fuzzing/fuzzer.h"

extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  const char* directory = getenv("DAVIT_FUZZ_SEEDS");
  if (directory == nullptr) return 0;
  int number = 0;
  for (const std::string& seed : davit::fuzzing::Seeds()) {
    const std::string path = std::string(directory) + "/seed-" + std::to_string(number++);
    FILE* file = fopen(path.c_str(), "wb");
    if (file == nullptr || fwrite(seed.data(), 1, seed.size(), file) != seed.size() ||
        fclose(file) != 0) {
      perror(path.c_str());
      exit(1);
    }
  }
  exit(0);
}
