#include "sandbox/cni/json.h"

#include <nlohmann/json.hpp>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace davit::sandbox::cni {

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text, absl::string_view what,
                                         size_t max_bytes, int max_depth) {
  using Json = nlohmann::json;
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": longer than the limit of ", max_bytes, " bytes"));
  }
  std::string problem;
  std::vector<std::set<std::string>> keys;
  const Json::parser_callback_t watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
        keys.emplace_back();
        break;
      case Json::parse_event_t::object_end:
        keys.pop_back();
        break;
      case Json::parse_event_t::key:
        if (!keys.back().insert(parsed.get<std::string>()).second && problem.empty()) {
          problem = absl::StrCat("the key \"", parsed.get<std::string>(), "\" appears twice");
        }
        break;
      default:
        break;
    }
    if (depth > max_depth && problem.empty()) {
      problem = absl::StrCat("nested deeper than ", max_depth, " levels");
    }
    return depth <= max_depth;
  };
  Json value = Json::parse(text.begin(), text.end(), watch, /*allow_exceptions=*/false);
  if (problem.empty() && value.is_discarded()) problem = "not valid JSON";
  if (!problem.empty()) return absl::InvalidArgumentError(absl::StrCat(what, ": ", problem));
  return value;
}

std::string DumpJson(const nlohmann::json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string StringMember(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto member = object.find(key);
  return member != object.end() && member->is_string() ? member->get<std::string>() : "";
}

}  // namespace davit::sandbox::cni
