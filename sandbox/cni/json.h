#ifndef DAVIT_SANDBOX_CNI_JSON_H_
#define DAVIT_SANDBOX_CNI_JSON_H_

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// JSON that others wrote: configuration files and what plugins print.
namespace davit::sandbox::cni {

inline constexpr size_t kMaxJson = 1 << 20;
inline constexpr int kMaxJsonDepth = 64;

// Parses one JSON value. InvalidArgument, naming `what`, for a syntax error, an object with the
// same key twice, nesting deeper than `max_depth`, or more than `max_bytes`.
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view what,
                                         size_t max_bytes = kMaxJson,
                                         int max_depth = kMaxJsonDepth);

// Compact, with invalid UTF-8 replaced.
std::string DumpJson(const nlohmann::json& value);

// The string member `key`; "" if it is absent or no string.
std::string StringMember(const nlohmann::json& object, const char* key);

}  // namespace davit::sandbox::cni

#endif  // DAVIT_SANDBOX_CNI_JSON_H_
