#include "cri/user_lookup.h"

#include <algorithm>
#include <limits>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace davit::cri {
namespace {

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max();
constexpr size_t kMaxGroups = 65536;  // NGROUPS_MAX

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

absl::StatusOr<uint32_t> CheckId(int64_t id, absl::string_view what) {
  if (id < 0 || id > kMaxId) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " ", id, " is not between 0 and ", kMaxId));
  }
  return static_cast<uint32_t>(id);
}

absl::StatusOr<uint32_t> ParseId(absl::string_view text, absl::string_view what) {
  int64_t id = 0;
  if (!absl::SimpleAtoi(text, &id)) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " ", text.substr(0, 32), " is not between 0 and ", kMaxId));
  }
  return CheckId(id, what);
}

struct PasswdEntry {
  absl::string_view name;
  uint32_t uid = 0;
  uint32_t gid = 0;
  absl::string_view home;
};

// Calls `visit` with the fields of each line until it returns true.
template <typename Visit>
void ForEachLine(absl::string_view file, size_t fields, Visit visit) {
  for (const absl::string_view line : absl::StrSplit(file, '\n')) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, ':');
    if (parts.size() < fields || parts[0].empty() || parts[0][0] == '#') continue;
    if (visit(parts)) return;
  }
}

// man 5 passwd
template <typename Matches>
std::optional<PasswdEntry> FindUser(absl::string_view passwd, Matches matches) {
  std::optional<PasswdEntry> found;
  ForEachLine(passwd, 4, [&](const std::vector<absl::string_view>& parts) {
    const auto uid = ParseId(parts[2], "uid");
    const auto gid = ParseId(parts[3], "gid");
    if (!IsNumber(parts[2]) || !IsNumber(parts[3]) || !uid.ok() || !gid.ok()) return false;
    const PasswdEntry entry = {parts[0], *uid, *gid,
                               parts.size() > 5 ? parts[5] : absl::string_view()};
    if (!matches(entry)) return false;
    found = entry;
    return true;
  });
  return found;
}

// man 5 group
absl::StatusOr<uint32_t> FindGroup(absl::string_view group, absl::string_view name) {
  std::optional<uint32_t> gid;
  ForEachLine(group, 3, [&](const std::vector<absl::string_view>& parts) {
    if (parts[0] != name || !IsNumber(parts[2])) return false;
    const auto parsed = ParseId(parts[2], "gid");
    if (parsed.ok()) gid = *parsed;
    return gid.has_value();
  });
  if (gid) return *gid;
  return absl::InvalidArgumentError(
      absl::StrCat("group \"", name.substr(0, 256), "\" is not in the image's /etc/group"));
}

void AddGroupsOf(absl::string_view group, absl::string_view user, std::vector<uint32_t>* groups) {
  ForEachLine(group, 4, [&](const std::vector<absl::string_view>& parts) {
    const std::vector<absl::string_view> members = absl::StrSplit(parts[3], ',');
    if (std::find(members.begin(), members.end(), user) != members.end() && IsNumber(parts[2])) {
      const auto gid = ParseId(parts[2], "gid");
      if (gid.ok()) groups->push_back(*gid);
    }
    return groups->size() >= kMaxGroups;
  });
}

// User and group as text, from the request or the image.
struct Names {
  std::string user;
  std::string group;
};

absl::StatusOr<Names> ChooseNames(const UserRequest& request) {
  Names names;
  if (!request.run_as_username.empty()) {
    names.user = request.run_as_username;
  } else if (request.run_as_user) {
    names.user = absl::StrCat(*request.run_as_user);
  }
  if (request.run_as_group) {
    if (names.user.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("run_as_group ", *request.run_as_group,
                       " is given without run_as_user or run_as_username"));
    }
    names.group = absl::StrCat(*request.run_as_group);
  }
  if (names.user.empty()) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(request.image_user, absl::MaxSplits(':', 1));
    names = {parts.first, parts.second};
  }
  if (names.user.empty()) names.user.push_back('0');
  return names;
}

void RemoveDuplicates(std::vector<uint32_t>* groups) {
  std::set<uint32_t> seen;  // an image may list tens of thousands
  std::erase_if(*groups, [&seen](uint32_t gid) { return !seen.insert(gid).second; });
}

}  // namespace

absl::StatusOr<ResolvedUser> ResolveUser(const UserRequest& request, absl::string_view passwd,
                                         absl::string_view group) {
  absl::StatusOr<Names> names = ChooseNames(request);
  if (!names.ok()) return names.status();
  for (const std::optional<int64_t>& id : {request.run_as_user, request.run_as_group}) {
    if (id && !CheckId(*id, "id").ok()) {
      return CheckId(*id, id == request.run_as_user ? "run_as_user" : "run_as_group").status();
    }
  }

  ResolvedUser user;
  std::optional<PasswdEntry> entry;
  if (IsNumber(names->user)) {
    const absl::StatusOr<uint32_t> uid = ParseId(names->user, "user id");
    if (!uid.ok()) return uid.status();
    user.uid = *uid;
    entry = FindUser(passwd, [&](const PasswdEntry& e) { return e.uid == user.uid; });
  } else {
    entry = FindUser(passwd, [&](const PasswdEntry& e) { return e.name == names->user; });
    if (!entry) {
      return absl::InvalidArgumentError(absl::StrCat("user \"", names->user.substr(0, 256),
                                                     "\" is not in the image's /etc/passwd"));
    }
    user.uid = entry->uid;
  }
  if (entry) user.gid = entry->gid;
  user.home = entry && !entry->home.empty() ? std::string(entry->home) : "/";

  if (!names->group.empty()) {
    const absl::StatusOr<uint32_t> gid =
        IsNumber(names->group) ? ParseId(names->group, "group id") : FindGroup(group, names->group);
    if (!gid.ok()) return gid.status();
    user.gid = *gid;
  }

  user.groups.push_back(user.gid);
  if (!request.strict_groups) {
    if (entry) AddGroupsOf(group, entry->name, &user.groups);
  }
  for (const int64_t id : request.supplemental_groups) {
    const absl::StatusOr<uint32_t> gid = CheckId(id, "supplemental group");
    if (!gid.ok()) return gid.status();
    user.groups.push_back(*gid);
  }
  if (user.groups.size() > kMaxGroups) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxGroups, " groups"));
  }
  RemoveDuplicates(&user.groups);
  return user;
}

}  // namespace davit::cri
