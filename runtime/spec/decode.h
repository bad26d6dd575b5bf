#ifndef DAVIT_RUNTIME_SPEC_DECODE_H_
#define DAVIT_RUNTIME_SPEC_DECODE_H_

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/spec/json_reader.h"

// Typed reading of a JsonValue. Reading goes on after an error, but only the first is kept; its
// text begins with the path of the value.
namespace davit::runtime::spec {

// A place in the document. Lives on the stack while its children are read.
class Cursor {
 public:
  Cursor(const JsonValue& value, absl::Status* status) : value_(value), status_(status) {}
  Cursor(const JsonValue& value, const Cursor& parent, absl::string_view key)
      : value_(value), parent_(&parent), key_(key), status_(parent.status_) {}
  Cursor(const JsonValue& value, const Cursor& parent, size_t index)
      : value_(value), parent_(&parent), index_(index), status_(parent.status_) {}

  const JsonValue& value() const { return value_; }
  bool Is(JsonValue::Type type) const { return value_.type == type; }

  void Fail(absl::string_view what) const {
    if (!status_->ok()) return;
    const std::string path = Path();
    *status_ = absl::InvalidArgumentError(path.empty() ? std::string(what)
                                                       : absl::StrCat(path, ": ", what));
  }
  void WrongType(const char* wanted) const {
    Fail(absl::StrCat("is ", TypeName(value_.type), ", must be ", wanted));
  }

 private:
  std::string Path() const {
    if (parent_ == nullptr) return "";
    std::string path = parent_->Path();
    if (key_.empty()) return absl::StrCat(path, "[", index_, "]");
    return absl::StrCat(path, path.empty() ? "" : ".", key_);
  }

  const JsonValue& value_;
  const Cursor* parent_ = nullptr;
  absl::string_view key_;
  size_t index_ = 0;
  absl::Status* status_;
};

inline void Read(const Cursor& at, bool* out) {
  if (!at.Is(JsonValue::Type::kBool)) return at.WrongType("a boolean");
  *out = at.value().boolean;
}

inline void Read(const Cursor& at, std::string* out) {
  if (!at.Is(JsonValue::Type::kString)) return at.WrongType("a string");
  if (at.value().string.find('\0') != std::string::npos) return at.Fail("contains a NUL byte");
  *out = at.value().string;
}

template <typename T>
requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) void Read(const Cursor& at, T* out) {
  const JsonValue& v = at.value();
  const auto out_of_range = [&] {
    at.Fail(absl::StrCat("is out of range (", std::numeric_limits<T>::min(), " to ",
                         std::numeric_limits<T>::max(), ")"));
  };
  if (v.type == JsonValue::Type::kUnsigned) {
    if (v.unsigned_integer > static_cast<uint64_t>(std::numeric_limits<T>::max())) {
      return out_of_range();
    }
    *out = static_cast<T>(v.unsigned_integer);
  } else if (v.type == JsonValue::Type::kInteger) {
    if (std::is_unsigned_v<T> || v.integer < static_cast<int64_t>(std::numeric_limits<T>::min())) {
      return out_of_range();
    }
    *out = static_cast<T>(v.integer);
  } else {
    at.WrongType("an integer");
  }
}

template <typename T>
void Read(const Cursor& at, std::optional<T>* out) {
  Read(at, &out->emplace());
}

template <typename T>
void Read(const Cursor& at, std::vector<T>* out) {
  if (!at.Is(JsonValue::Type::kArray)) return at.WrongType("an array");
  out->reserve(at.value().items.size());
  for (size_t i = 0; i < at.value().items.size(); ++i) {
    Read(Cursor(at.value().items[i], at, i), &out->emplace_back());
  }
}

inline void Read(const Cursor& at, std::map<std::string, std::string>* out) {
  if (!at.Is(JsonValue::Type::kObject)) return at.WrongType("an object");
  for (const auto& [key, value] : at.value().members) {
    const Cursor child(value, at, key);
    if (key.find('\0') != std::string::npos) child.Fail("the key contains a NUL byte");
    Read(child, &(*out)[key]);
  }
}

// Reads the member `key` into `out` if it is there and not null. Returns whether it was.
template <typename T>
bool Field(const Cursor& object, absl::string_view key, T* out) {
  const JsonValue* value = object.value().Find(key);
  if (value == nullptr || value->type == JsonValue::Type::kNull) return false;
  Read(Cursor(*value, object, key), out);
  return true;
}

template <typename T>
void Required(const Cursor& object, absl::string_view key, T* out) {
  if (!Field(object, key, out)) object.Fail(absl::StrCat("lacks the required field ", key));
}

// Reports a member whose text is not one of `allowed`.
inline void CheckEnum(const Cursor& object, absl::string_view key, const std::string& value,
                      std::initializer_list<absl::string_view> allowed) {
  for (const absl::string_view candidate : allowed) {
    if (value == candidate) return;
  }
  const JsonValue* at = object.value().Find(key);
  if (at != nullptr) {
    Cursor(*at, object, key).Fail(absl::StrCat("\"", value, "\" is not a known value"));
  }
}

inline bool IsObject(const Cursor& at) {
  if (at.Is(JsonValue::Type::kObject)) return true;
  at.WrongType("an object");
  return false;
}

}  // namespace davit::runtime::spec

#endif  // DAVIT_RUNTIME_SPEC_DECODE_H_
