#include "runtime/sys/version.h"

#ifndef DAVIT_VERSION
#define DAVIT_VERSION "unknown"
#endif

namespace davit::sys {

const char* Version() {
  // With a name in front, so that a tool finds it in a program.
  static constexpr char kNamed[] = "davit version " DAVIT_VERSION;
  return kNamed + sizeof "davit version " - 1;
}

}  // namespace davit::sys
