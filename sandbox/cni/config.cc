#include "sandbox/cni/config.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/cni/json.h"

namespace davit::sandbox::cni {
namespace {

constexpr size_t kMaxPlugins = 64;
constexpr std::array<absl::string_view, 7> kVersions = {"0.1.0", "0.2.0", "0.3.0", "0.3.1",
                                                        "0.4.0", "1.0.0", "1.1.0"};

std::array<int, 3> ParseVersion(absl::string_view text) {
  std::array<int, 3> version{};
  size_t i = 0;
  for (absl::string_view part : absl::StrSplit(text, '.')) {
    if (i < version.size()) (void)absl::SimpleAtoi(part, &version[i++]);
  }
  return version;
}

// The network's name is handed to plugins that make file names of it.
bool IsName(absl::string_view name) {
  return !name.empty() && name.size() <= 255 &&
         absl::ascii_isalnum(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '_' || c == '.' || c == '-';
         });
}

absl::Status Broken(const std::string& file, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("CNI configuration ", file, ": ", what));
}

// "cniVersion", or the newest of "cniVersions" (specification 1.1) that is known here.
absl::StatusOr<std::string> ChooseVersion(const nlohmann::json& list, const std::string& file) {
  std::vector<std::string> offered;
  if (const auto many = list.find("cniVersions"); many != list.end() && many->is_array()) {
    for (const auto& version : *many) {
      if (version.is_string()) offered.push_back(version.get<std::string>());
    }
  }
  const std::string one = StringMember(list, "cniVersion");
  if (!one.empty()) offered.push_back(one);
  if (offered.empty()) return std::string("0.1.0");
  std::string best;
  for (const std::string& version : offered) {
    const bool known = std::find(kVersions.begin(), kVersions.end(), version) != kVersions.end();
    if (known && (best.empty() || VersionAtLeast(version, best))) best = version;
  }
  if (best.empty()) {
    return Broken(file,
                  absl::StrCat("version ", absl::StrJoin(offered, ", "),
                               " is not supported (known: ", absl::StrJoin(kVersions, ", "), ")"));
  }
  return best;
}

bool IsConfigName(absl::string_view name) {
  return !absl::StartsWith(name, ".") &&
         (absl::EndsWith(name, ".conflist") || absl::EndsWith(name, ".conf") ||
          absl::EndsWith(name, ".json"));
}

int64_t Nanoseconds(const timespec& time) {
  return static_cast<int64_t>(time.tv_sec) * 1000000000 + time.tv_nsec;
}

}  // namespace

bool VersionAtLeast(absl::string_view a, absl::string_view b) {
  return ParseVersion(a) >= ParseVersion(b);
}

absl::StatusOr<NetworkConfig> ParseNetworkConfig(absl::string_view text, const std::string& file,
                                                 bool single) {
  DAVIT_ASSIGN_OR_RETURN(nlohmann::json list,
                         ParseJson(text, absl::StrCat("CNI configuration ", file)));
  if (!list.is_object()) return Broken(file, "not an object");
  if (single) {
    if (list.contains("plugins")) {
      return Broken(file, "a list of plugins belongs into a file that ends in .conflist");
    }
    nlohmann::json plugin = std::move(list);
    list = nlohmann::json::object();
    for (const char* key : {"name", "cniVersion"}) {
      if (plugin.contains(key)) list[key] = plugin[key];
    }
    list["plugins"] = nlohmann::json::array({std::move(plugin)});
  }
  NetworkConfig config;
  config.file = file;
  config.name = StringMember(list, "name");
  if (!IsName(config.name)) return Broken(file, "\"name\" is missing or malformed");
  DAVIT_ASSIGN_OR_RETURN(config.cni_version, ChooseVersion(list, file));
  if (const auto disable = list.find("disableCheck"); disable != list.end()) {
    config.disable_check = *disable == true || *disable == "true";
  }
  const auto plugins = list.find("plugins");
  if (plugins == list.end() || !plugins->is_array() || plugins->empty()) {
    return Broken(file, "\"plugins\" is missing or empty");
  }
  if (plugins->size() > kMaxPlugins) return Broken(file, "too many plugins");
  for (const nlohmann::json& plugin : *plugins) {
    const std::string type = StringMember(plugin, "type");
    if (type.empty() || type == "." || type == ".." || absl::StrContains(type, "/")) {
      return Broken(file, absl::StrCat("plugin type \"", type, "\" is no file name"));
    }
    if (const auto capabilities = plugin.find("capabilities");
        capabilities != plugin.end() && !capabilities->is_object()) {
      return Broken(file, absl::StrCat("\"capabilities\" of ", type, " is not an object"));
    }
    config.plugins.push_back({type, DumpJson(plugin)});
  }
  config.json = DumpJson(list);
  return config;
}

absl::StatusOr<std::vector<ConfigDirectory::Entry>> ConfigDirectory::Scan() const {
  std::vector<Entry> entries;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(path_.c_str()), closedir);
  if (directory == nullptr) {
    if (errno == ENOENT) return entries;
    return sys::ErrnoStatus(errno, absl::StrCat("read CNI configuration directory ", path_));
  }
  while (const dirent* file = readdir(directory.get())) {
    struct stat st;
    if (!IsConfigName(file->d_name)) continue;
    if (fstatat(dirfd(directory.get()), file->d_name, &st, 0) != 0 || S_ISDIR(st.st_mode)) continue;
    entries.push_back(
        {file->d_name, st.st_ino, st.st_size, Nanoseconds(st.st_mtim), Nanoseconds(st.st_ctim)});
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  return entries;
}

absl::StatusOr<std::shared_ptr<const NetworkConfig>> ConfigDirectory::Load(
    const std::string& name) const {
  const std::string file = absl::StrCat(path_, "/", name);
  DAVIT_ASSIGN_OR_RETURN(const std::string text, sys::ReadFileAt(AT_FDCWD, file, kMaxJson));
  DAVIT_ASSIGN_OR_RETURN(NetworkConfig config,
                         ParseNetworkConfig(text, file, !absl::EndsWith(name, ".conflist")));
  return std::make_shared<const NetworkConfig>(std::move(config));
}

absl::StatusOr<std::shared_ptr<const NetworkConfig>> ConfigDirectory::Get() {
  // The lock is held across reading two small local files: calls at the same time would only read
  // them twice.
  const sys::MutexLock lock(&mutex_);
  DAVIT_ASSIGN_OR_RETURN(std::vector<Entry> entries, Scan());
  if (!loaded_ || entries != entries_) {
    loaded_ = true;
    entries_ = std::move(entries);
    config_ = nullptr;
    if (entries_.empty()) {
      status_ = absl::NotFoundError(
          absl::StrCat("no CNI configuration (*.conflist, *.conf, *.json) in ", path_));
    } else {
      auto config = Load(entries_.front().name);
      status_ = config.status();
      if (config.ok()) config_ = *std::move(config);
    }
  }
  if (!status_.ok()) return status_;
  return config_;
}

}  // namespace davit::sandbox::cni
