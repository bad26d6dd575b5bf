#ifndef DAVIT_RUNTIME_SYS_FUZZING_FUZZER_H_
#define DAVIT_RUNTIME_SYS_FUZZING_FUZZER_H_

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

// An entry point for fuzzing: one source file that defines these two functions, made a target by
// davit_fuzzer (tools/bazel/cc.bzl). `tools/fuzz` runs it with libFuzzer; the target's unit test
// runs it over its seeds, damaged copies of them, and the inputs kept in fuzz_inputs/<name>/.

// libFuzzer's interface. Must not keep state from one call to the next. Always returns 0; a broken
// promise ends the process (DAVIT_FUZZ_CHECK).
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace davit::fuzzing {

// Sound and nearly sound inputs to begin with.
std::vector<std::string> Seeds();

}  // namespace davit::fuzzing

// For what the code under test promises of any input.
#define DAVIT_FUZZ_CHECK(condition)                                                  \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      abort();                                                                       \
    }                                                                                \
  } while (false)

#endif  // DAVIT_RUNTIME_SYS_FUZZING_FUZZER_H_
