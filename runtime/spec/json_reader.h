#ifndef DAVIT_RUNTIME_SPEC_JSON_READER_H_
#define DAVIT_RUNTIME_SPEC_JSON_READER_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::runtime::spec {

// A JSON document as a tree, read strictly: duplicate keys at any depth, nesting deeper than
// `max_depth`, invalid UTF-8 and trailing text are errors. Members keep their order.
struct JsonMember;
struct JsonValue {
  enum class Type { kNull, kBool, kInteger, kUnsigned, kNumber, kString, kArray, kObject };
  Type type = Type::kNull;
  bool boolean = false;
  int64_t integer = 0;            // kInteger: negative numbers
  uint64_t unsigned_integer = 0;  // kUnsigned: zero and more
  double number = 0;
  std::string string;
  std::vector<JsonValue> items;     // kArray
  std::vector<JsonMember> members;  // kObject

  const JsonValue* Find(absl::string_view key) const;
};
struct JsonMember {
  std::string name;
  JsonValue value;
};

// The JSON word for a type: "a string", "an array", ...
const char* TypeName(JsonValue::Type type);

// InvalidArgument with the path of the offending value, or the byte position of broken syntax.
absl::StatusOr<JsonValue> ReadJson(absl::string_view text, size_t max_bytes, int max_depth);

}  // namespace davit::runtime::spec

#endif  // DAVIT_RUNTIME_SPEC_JSON_READER_H_
