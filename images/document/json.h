#ifndef DAVIT_IMAGES_DOCUMENT_JSON_H_
#define DAVIT_IMAGES_DOCUMENT_JSON_H_

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// JSON that a stranger wrote, read as I-JSON (RFC 7493; image-spec considerations.md): one object,
// valid UTF-8, no duplicate names at any depth, bounded size and depth. Thread-safe.
// Every error is FailedPrecondition and names the member.
namespace davit::images {

// `what` names the document in errors ("the manifest").
absl::StatusOr<nlohmann::json> ParseStrictJson(absl::string_view bytes, size_t max_bytes,
                                               absl::string_view what);

// Readers of one member of an object. An absent member and null give the empty value; a member of
// another type is an error.
absl::StatusOr<std::string> StringMember(const nlohmann::json& object, const char* name);
absl::StatusOr<std::vector<std::string>> StringsMember(const nlohmann::json& object,
                                                       const char* name);
absl::StatusOr<std::map<std::string, std::string>> StringMapMember(const nlohmann::json& object,
                                                                   const char* name);
// The named object or array, or null if it is absent.
absl::StatusOr<const nlohmann::json*> ObjectMember(const nlohmann::json& object, const char* name);
absl::StatusOr<const nlohmann::json*> ArrayMember(const nlohmann::json& object, const char* name);

}  // namespace davit::images

#endif  // DAVIT_IMAGES_DOCUMENT_JSON_H_
