#include "images/registry/registry_error.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "images/registry/retry.h"

namespace davit::images {
namespace {

constexpr size_t kMaxShown = 256;

std::string Shown(const nlohmann::json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end() || !it->is_string()) return "";
  return absl::CHexEscape(it->get_ref<const std::string&>().substr(0, kMaxShown));
}

absl::StatusCode CodeFor(int status) {
  switch (status) {
    case 401:
      return absl::StatusCode::kUnauthenticated;
    case 403:
      return absl::StatusCode::kPermissionDenied;
    case 404:
      return absl::StatusCode::kNotFound;
    default:
      return IsRetryableStatus(status) || status >= 500 ? absl::StatusCode::kUnavailable
                                                        : absl::StatusCode::kFailedPrecondition;
  }
}

}  // namespace

std::string RegistryErrorText(absl::string_view error_body) {
  const auto document = nlohmann::json::parse(error_body.begin(), error_body.end(), nullptr, false);
  if (!document.is_object()) return "";
  const auto errors = document.find("errors");
  if (errors == document.end() || !errors->is_array() || errors->empty() ||
      !errors->front().is_object()) {
    return "";
  }
  const std::string code = Shown(errors->front(), "code");
  const std::string message = Shown(errors->front(), "message");
  if (code.empty() && message.empty()) return "";
  return absl::StrCat(": ", code, code.empty() || message.empty() ? "" : ": ", message);
}

absl::Status StatusFromResponse(const HttpResponse& response, absl::string_view what) {
  return absl::Status(
      CodeFor(response.status),
      absl::StrCat(what, ": HTTP ", response.status, RegistryErrorText(response.error_body)));
}

}  // namespace davit::images
