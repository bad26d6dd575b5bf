#include "images/reference.h"

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "runtime/sys/errno.h"

namespace davit::images {
namespace {

constexpr size_t kMaxName = 255;
constexpr size_t kMaxTag = 128;
constexpr char kDefaultDomain[] = "docker.io";

absl::Status Invalid(absl::string_view text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", absl::CHexEscape(text.substr(0, 300)),
                                                 "\" is not an image reference: ", why));
}

bool IsLowerAlnum(char c) { return absl::ascii_islower(c) || absl::ascii_isdigit(c); }

// [a-z0-9]+ joined by ".", "_", "__" or any number of "-".
bool IsPathComponent(absl::string_view text) {
  size_t i = 0;
  while (true) {
    const size_t start = i;
    while (i < text.size() && IsLowerAlnum(text[i])) ++i;
    if (i == start) return false;
    if (i == text.size()) return true;
    if (text[i] == '-') {
      while (i < text.size() && text[i] == '-') ++i;
    } else if (text[i] == '_') {
      ++i;
      if (i < text.size() && text[i] == '_') ++i;
    } else if (text[i] == '.') {
      ++i;
    } else {
      return false;
    }
  }
}

bool IsHostLabel(absl::string_view text) {
  if (text.empty() || text.front() == '-' || text.back() == '-') return false;
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && c != '-') return false;
  }
  return true;
}

bool IsPort(absl::string_view text) {
  if (text.empty() || text.size() > 5) return false;
  int value = 0;
  for (const char c : text) {
    if (!absl::ascii_isdigit(c)) return false;
    value = value * 10 + (c - '0');
  }
  return value > 0 && value <= 65535;
}

bool IsDomain(absl::string_view text) {
  if (absl::StartsWith(text, "[")) {
    const size_t end = text.find(']');
    if (end == absl::string_view::npos || end < 3) return false;
    for (const char c : text.substr(1, end - 1)) {
      if (!absl::ascii_isxdigit(c) && c != ':') return false;
    }
    const absl::string_view rest = text.substr(end + 1);
    return rest.empty() || (rest[0] == ':' && IsPort(rest.substr(1)));
  }
  const size_t colon = text.find(':');
  if (colon != absl::string_view::npos && !IsPort(text.substr(colon + 1))) return false;
  for (const absl::string_view label : absl::StrSplit(text.substr(0, colon), '.')) {
    if (!IsHostLabel(label)) return false;
  }
  return true;
}

bool IsTag(absl::string_view text) {
  if (text.empty() || text.size() > kMaxTag) return false;
  if (!absl::ascii_isalnum(text[0]) && text[0] != '_') return false;
  for (const char c : text) {
    if (!absl::ascii_isalnum(c) && c != '_' && c != '.' && c != '-') return false;
  }
  return true;
}

// The part before the first slash is a registry only if it looks like a host; "a/b" is
// docker.io/a/b.
bool LooksLikeDomain(absl::string_view text) {
  if (text == "localhost" || absl::StrContains(text, ".") || absl::StrContains(text, ":")) {
    return true;
  }
  for (const char c : text) {
    if (absl::ascii_isupper(c)) return true;
  }
  return false;
}

}  // namespace

std::string Reference::Repository() const { return absl::StrCat(domain, "/", path); }

std::string Reference::Tagged() const {
  if (tag.empty() || !digest.empty()) return "";
  return absl::StrCat(Repository(), ":", tag);
}

std::string Reference::WithDigest(const Digest& value) const {
  return absl::StrCat(Repository(), "@", value.ToString());
}

std::string Reference::ManifestKey() const { return digest.empty() ? tag : digest.ToString(); }

std::string Reference::ApiHost() const {
  return domain == kDefaultDomain ? "registry-1.docker.io" : domain;
}

absl::StatusOr<Reference> ParseReference(absl::string_view text) {
  Reference reference;
  absl::string_view rest = text;
  if (text.empty()) return Invalid(text, "it is empty");
  // A bare 64-digit name would be taken for an image id everywhere else.
  if (!IdDigits(text, 64).empty()) return Invalid(text, "an image id cannot be pulled");

  const size_t at = rest.find('@');
  if (at != absl::string_view::npos) {
    auto digest = Digest::Parse(rest.substr(at + 1));
    if (!digest.ok()) return Invalid(text, digest.status().message());
    reference.digest = *std::move(digest);
    rest = rest.substr(0, at);
  }
  const size_t slash = rest.rfind('/');
  const size_t colon = rest.rfind(':');
  if (colon != absl::string_view::npos && (slash == absl::string_view::npos || colon > slash)) {
    reference.tag = std::string(rest.substr(colon + 1));
    if (!IsTag(reference.tag)) return Invalid(text, "the tag is malformed");
    rest = rest.substr(0, colon);
  }

  const size_t first_slash = rest.find('/');
  if (first_slash != absl::string_view::npos && LooksLikeDomain(rest.substr(0, first_slash))) {
    reference.domain = std::string(rest.substr(0, first_slash));
    rest = rest.substr(first_slash + 1);
  } else {
    reference.domain = kDefaultDomain;
  }
  if (reference.domain == "index.docker.io") reference.domain = kDefaultDomain;
  if (!IsDomain(reference.domain)) return Invalid(text, "the registry host is malformed");
  for (const absl::string_view component : absl::StrSplit(rest, '/')) {
    if (!IsPathComponent(component)) {
      return Invalid(text, "a repository name is made of lowercase letters, digits and separators");
    }
  }
  reference.path = std::string(rest);
  if (reference.domain == kDefaultDomain && !absl::StrContains(rest, "/")) {
    reference.path = absl::StrCat("library/", rest);
  }
  if (reference.Repository().size() > kMaxName) {
    return Invalid(text, "the name is longer than 255 bytes");
  }
  if (reference.tag.empty() && reference.digest.empty()) reference.tag = "latest";
  return reference;
}

std::string IdDigits(absl::string_view text, size_t min_digits) {
  absl::ConsumePrefix(&text, "sha256:");
  if (text.size() < min_digits || text.size() > 64) return "";
  for (const char c : text) {
    if (!absl::ascii_isdigit(c) && !(c >= 'a' && c <= 'f')) return "";
  }
  return std::string(text);
}

}  // namespace davit::images
