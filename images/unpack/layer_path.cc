#include "images/unpack/layer_path.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace davit::images::unpack {
namespace {

std::string Quoted(absl::string_view name) {
  return absl::StrCat("\"", absl::CEscape(name.substr(0, 200)), "\"");
}

}  // namespace

absl::StatusOr<std::string> CleanLayerPath(absl::string_view name, uint32_t max_depth) {
  if (name.find('\0') != absl::string_view::npos) {
    return absl::FailedPreconditionError(
        absl::StrCat("the name ", Quoted(name), " has a NUL byte"));
  }
  std::string clean;
  clean.reserve(name.size());
  uint32_t depth = 0;
  while (!name.empty()) {
    const size_t slash = name.find('/');
    const absl::string_view part = name.substr(0, slash);
    name.remove_prefix(slash == absl::string_view::npos ? name.size() : slash + 1);
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (depth == 0) {
        return absl::FailedPreconditionError("the name leads out of the layer's root by \"..\"");
      }
      clean.resize(ParentOf(clean).size());
      --depth;
      continue;
    }
    if (part.size() > kMaxLayerName) {
      return absl::FailedPreconditionError(
          absl::StrCat("the name ", Quoted(part), " is longer than ", kMaxLayerName, " bytes"));
    }
    if (++depth > max_depth) {
      return absl::FailedPreconditionError(
          absl::StrCat("the name is nested deeper than ", max_depth, " directories"));
    }
    if (!clean.empty()) clean += '/';
    clean.append(part.data(), part.size());
  }
  if (clean.size() > kMaxLayerPath) {
    return absl::FailedPreconditionError(
        absl::StrCat("the name is longer than ", kMaxLayerPath, " bytes"));
  }
  return clean;
}

absl::Status CheckCleanPath(absl::string_view path, uint32_t max_depth) {
  const auto clean = CleanLayerPath(path, max_depth);
  if (!clean.ok()) return absl::InvalidArgumentError(clean.status().message());
  if (absl::string_view(*clean) != path) {
    return absl::InvalidArgumentError(absl::StrCat("the path ", Quoted(path), " is not clean"));
  }
  return absl::OkStatus();
}

absl::string_view ParentOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == absl::string_view::npos ? absl::string_view() : path.substr(0, slash);
}

absl::string_view NameOf(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return slash == absl::string_view::npos ? path : path.substr(slash + 1);
}

std::string JoinPath(absl::string_view parent, absl::string_view name) {
  if (parent.empty()) return std::string(name);
  return absl::StrCat(parent, "/", name);
}

}  // namespace davit::images::unpack
