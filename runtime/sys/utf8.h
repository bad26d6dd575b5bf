#ifndef DAVIT_RUNTIME_SYS_UTF8_H_
#define DAVIT_RUNTIME_SYS_UTF8_H_

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

// Text on its way into a protobuf string or to a client, which both refuse what is not UTF-8
// (RFC 3629): messages quote paths and commands, and those may hold any byte. Thread-safe.
namespace davit::sys {

// `text` with each byte that belongs to no valid sequence replaced by U+FFFD.
std::string ValidUtf8(absl::string_view text);

// The longest beginning of `text` that has at most `limit` bytes and cuts no sequence in two.
absl::string_view TruncateUtf8(absl::string_view text, size_t limit);

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_UTF8_H_
