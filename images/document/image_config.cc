#include "images/document/image_config.h"

#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "images/document/json.h"
#include "images/document/manifest.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

using nlohmann::json;

absl::Status ParseProcess(const json& object, ImageConfig* config) {
  DAVIT_ASSIGN_OR_RETURN(config->user, StringMember(object, "User"));
  DAVIT_ASSIGN_OR_RETURN(config->env, StringsMember(object, "Env"));
  DAVIT_ASSIGN_OR_RETURN(config->entrypoint, StringsMember(object, "Entrypoint"));
  DAVIT_ASSIGN_OR_RETURN(config->cmd, StringsMember(object, "Cmd"));
  DAVIT_ASSIGN_OR_RETURN(config->working_dir, StringMember(object, "WorkingDir"));
  DAVIT_ASSIGN_OR_RETURN(config->stop_signal, StringMember(object, "StopSignal"));
  DAVIT_ASSIGN_OR_RETURN(config->labels, StringMapMember(object, "Labels"));
  DAVIT_ASSIGN_OR_RETURN(const json* volumes, ObjectMember(object, "Volumes"));
  if (volumes != nullptr) {
    for (const auto& [path, unused] : volumes->items()) config->volumes.push_back(path);
  }
  return ParseImageUser(config->user).status();
}

absl::StatusOr<std::vector<Digest>> ParseDiffIds(const json& document) {
  std::vector<Digest> diff_ids;
  DAVIT_ASSIGN_OR_RETURN(const json* rootfs, ObjectMember(document, "rootfs"));
  if (rootfs == nullptr) return absl::FailedPreconditionError("there is no \"rootfs\"");
  DAVIT_ASSIGN_OR_RETURN(const std::string type, StringMember(*rootfs, "type"));
  if (type != "layers") {
    return absl::FailedPreconditionError(absl::StrCat("the rootfs is of the unknown type \"",
                                                      absl::CHexEscape(type.substr(0, 80)), "\""));
  }
  DAVIT_ASSIGN_OR_RETURN(const std::vector<std::string> texts, StringsMember(*rootfs, "diff_ids"));
  if (texts.size() > kMaxLayers) {
    return absl::FailedPreconditionError(
        absl::StrCat("there are more than ", kMaxLayers, " layers"));
  }
  for (const std::string& text : texts) {
    auto digest = Digest::Parse(text);
    if (!digest.ok()) {
      return absl::FailedPreconditionError(absl::StrCat("a diff ID: ", digest.status().message()));
    }
    diff_ids.push_back(*std::move(digest));
  }
  return diff_ids;
}

// Sets the number or the name that `text` holds.
absl::Status ParseId(absl::string_view text, std::optional<uint32_t>* id, std::string* name) {
  for (const char c : text) {
    if (!absl::ascii_isdigit(c)) {
      *name = std::string(text);
      // "-1" or "+0" is no name, and some parsers would take it for a number.
      if (text[0] == '-' || text[0] == '+') {
        return absl::FailedPreconditionError(
            absl::StrCat("User \"", absl::CHexEscape(text.substr(0, 80)), "\" is malformed"));
      }
      return absl::OkStatus();
    }
  }
  uint64_t value = 0;
  for (const char c : text) {
    value = value * 10 + static_cast<uint64_t>(c - '0');
    if (value > static_cast<uint64_t>(std::numeric_limits<int32_t>::max())) {
      return absl::FailedPreconditionError(absl::StrCat(
          "User: ", text.substr(0, 80), " is not a user or group number (0 to 2147483647)"));
    }
  }
  *id = static_cast<uint32_t>(value);
  return absl::OkStatus();
}

absl::StatusOr<ParsedConfig> ParseConfigDocument(const json& document) {
  ParsedConfig parsed;
  DAVIT_ASSIGN_OR_RETURN(const json* process, ObjectMember(document, "config"));
  if (process != nullptr) DAVIT_RETURN_IF_ERROR(ParseProcess(*process, &parsed.config));
  DAVIT_ASSIGN_OR_RETURN(parsed.config.os, StringMember(document, "os"));
  DAVIT_ASSIGN_OR_RETURN(parsed.config.architecture, StringMember(document, "architecture"));
  DAVIT_ASSIGN_OR_RETURN(parsed.config.variant, StringMember(document, "variant"));
  DAVIT_ASSIGN_OR_RETURN(parsed.platform.os_features, StringsMember(document, "os.features"));
  DAVIT_ASSIGN_OR_RETURN(parsed.diff_ids, ParseDiffIds(document));
  parsed.platform.os = parsed.config.os;
  parsed.platform.architecture = parsed.config.architecture;
  parsed.platform.variant = parsed.config.variant;
  return parsed;
}

}  // namespace

absl::StatusOr<ParsedConfig> ParseImageConfig(absl::string_view bytes) {
  DAVIT_ASSIGN_OR_RETURN(const json document,
                         ParseStrictJson(bytes, kMaxConfigBytes, "the image config"));
  auto parsed = ParseConfigDocument(document);
  if (!parsed.ok()) return sys::Annotate(parsed.status(), "the image config");
  return parsed;
}

absl::StatusOr<ImageUser> ParseImageUser(absl::string_view text) {
  ImageUser user;
  const size_t colon = text.find(':');
  const absl::string_view owner = text.substr(0, colon);
  if (!owner.empty()) DAVIT_RETURN_IF_ERROR(ParseId(owner, &user.uid, &user.user_name));
  if (colon != absl::string_view::npos && colon + 1 < text.size()) {
    DAVIT_RETURN_IF_ERROR(ParseId(text.substr(colon + 1), &user.gid, &user.group_name));
  }
  return user;
}

}  // namespace davit::images
