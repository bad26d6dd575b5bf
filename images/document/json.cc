#include "images/document/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace davit::images {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 32;

absl::Status WrongType(const char* name, const char* wanted) {
  return absl::FailedPreconditionError(absl::StrCat("\"", name, "\" is not ", wanted));
}

// A NUL would end the string early wherever it is handed to the kernel.
absl::StatusOr<std::string> PlainString(const json& value, const char* name) {
  if (!value.is_string()) return WrongType(name, "a string");
  const std::string& text = value.get_ref<const std::string&>();
  if (text.find('\0') != std::string::npos) {
    return absl::FailedPreconditionError(absl::StrCat("\"", name, "\" holds a NUL character"));
  }
  return text;
}

const json* Member(const json& object, const char* name) {
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

absl::StatusOr<json> ParseStrictJson(absl::string_view bytes, size_t max_bytes,
                                     absl::string_view what) {
  if (bytes.size() > max_bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, " is longer than the limit of ", max_bytes, " bytes"));
  }
  std::vector<std::set<std::string>> names;
  std::string problem;
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (!problem.empty()) return false;
    switch (event) {
      case json::parse_event_t::object_start:
        names.emplace_back();
        break;
      case json::parse_event_t::object_end:
        names.pop_back();
        break;
      case json::parse_event_t::key: {
        const std::string& key = parsed.get_ref<const std::string&>();
        if (!names.back().insert(key).second) {
          problem = absl::StrCat("the name \"", absl::CHexEscape(key), "\" occurs twice");
        }
        break;
      }
      default:
        break;
    }
    if (depth > kMaxDepth) problem = "it is nested too deeply";
    return problem.empty();
  };
  json document = json::parse(bytes.begin(), bytes.end(), check, /*allow_exceptions=*/false);
  if (!problem.empty()) return absl::FailedPreconditionError(absl::StrCat(what, ": ", problem));
  if (document.is_discarded()) {
    return absl::FailedPreconditionError(absl::StrCat(what, " is not valid JSON"));
  }
  if (!document.is_object()) {
    return absl::FailedPreconditionError(absl::StrCat(what, " is not a JSON object"));
  }
  return document;
}

absl::StatusOr<std::string> StringMember(const json& object, const char* name) {
  const json* value = Member(object, name);
  if (value == nullptr) return std::string();
  return PlainString(*value, name);
}

absl::StatusOr<std::vector<std::string>> StringsMember(const json& object, const char* name) {
  std::vector<std::string> result;
  const json* value = Member(object, name);
  if (value == nullptr) return result;
  // Old builders wrote a list of one as a bare string.
  if (value->is_string()) {
    auto text = PlainString(*value, name);
    if (!text.ok()) return text.status();
    result.push_back(*std::move(text));
    return result;
  }
  if (!value->is_array()) return WrongType(name, "a list of strings");
  for (const json& item : *value) {
    auto text = PlainString(item, name);
    if (!text.ok()) return text.status();
    result.push_back(*std::move(text));
  }
  return result;
}

absl::StatusOr<std::map<std::string, std::string>> StringMapMember(const json& object,
                                                                   const char* name) {
  std::map<std::string, std::string> result;
  const json* value = Member(object, name);
  if (value == nullptr) return result;
  if (!value->is_object()) return WrongType(name, "an object of strings");
  for (const auto& [key, item] : value->items()) {
    auto text = PlainString(item, name);
    if (!text.ok()) return text.status();
    result.emplace(key, *std::move(text));
  }
  return result;
}

absl::StatusOr<const json*> ObjectMember(const json& object, const char* name) {
  const json* value = Member(object, name);
  if (value != nullptr && !value->is_object()) return WrongType(name, "an object");
  return value;
}

absl::StatusOr<const json*> ArrayMember(const json& object, const char* name) {
  const json* value = Member(object, name);
  if (value != nullptr && !value->is_array()) return WrongType(name, "a list");
  return value;
}

}  // namespace davit::images
