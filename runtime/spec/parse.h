#ifndef DAVIT_RUNTIME_SPEC_PARSE_H_
#define DAVIT_RUNTIME_SPEC_PARSE_H_

#include <cstddef>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "runtime/spec/spec.h"

namespace davit::runtime::spec {

// Limits of a document. Beyond them ParseSpec refuses before it allocates for the content.
inline constexpr size_t kMaxSpecBytes = 4 * 1024 * 1024;
inline constexpr int kMaxSpecDepth = 32;

// Parses a config.json (runtime-spec config.md). Pure and thread-safe.
// Unknown fields are ignored, as the specification demands ("Extensibility"). Everything else is
// strict, and an InvalidArgument that names the JSON path ("process.rlimits[2].hard: ..."): broken
// JSON or UTF-8, duplicate keys at any depth (also inside unknown fields), a known field of another
// JSON type, numbers out of the field's range or not whole, unknown values of an enumeration, two
// namespaces or two rlimits of one type, an ociVersion other than 1.x, a missing required field, a
// NUL byte in a string that the kernel will see.
// A field that is null counts as absent.
// Strings written by SerializeSpec with escaped bytes come back as those bytes (see serialize.h).
absl::StatusOr<Spec> ParseSpec(absl::string_view json);

// The same for the `process` object alone, as `exec --process FILE` of runtime commands takes it.
absl::StatusOr<Process> ParseProcess(absl::string_view json);

}  // namespace davit::runtime::spec

#endif  // DAVIT_RUNTIME_SPEC_PARSE_H_
