#include "sandbox/cni/record.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "sandbox/cni/arguments.h"
#include "sandbox/cni/json.h"

namespace davit::sandbox::cni {
namespace {

constexpr int kVersion = 1;
constexpr size_t kMaxRecord = 4 * kMaxJson;

std::string FileName(const std::string& sandbox_id) { return absl::StrCat(sandbox_id, ".json"); }
std::string LockName(const std::string& sandbox_id) { return absl::StrCat(sandbox_id, ".lock"); }

// A JSON text that was checked when it was taken in.
nlohmann::json Embed(const std::string& text) {
  auto value = ParseJson(text, "record");
  return value.ok() ? *std::move(value) : nlohmann::json();
}

}  // namespace

std::string EncodeRecord(const Record& record) {
  nlohmann::json json = {{"version", kVersion},
                         {"sandboxId", record.sandbox_id},
                         {"netns", record.netns_path},
                         {"interface", record.interface},
                         {"config", Embed(record.config_json)},
                         {"configFile", record.config_file},
                         {"capabilityArgs", Embed(record.capability_args)},
                         {"cniArgs", record.cni_args},
                         {"state", record.added ? "added" : "adding"}};
  if (record.added) json["result"] = Embed(record.result_json);
  return DumpJson(json) + "\n";
}

absl::StatusOr<Record> DecodeRecord(absl::string_view text, const std::string& file) {
  auto broken = [&](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("CNI record ", file, ": ", what));
  };
  // It holds three texts that may each be as large and as deep as any: one that could not be read
  // back would owe its DEL for ever.
  const auto json = ParseJson(text, "content", kMaxRecord, kMaxJsonDepth + 1);
  if (!json.ok()) return broken(json.status().message());
  const auto version = json->is_object() ? json->find("version") : json->end();
  if (!json->is_object() || version == json->end() || *version != kVersion) {
    return broken("unknown version");
  }
  for (const char* key : {"config", "capabilityArgs"}) {
    if (!json->contains(key) || !(*json)[key].is_object()) {
      return broken(absl::StrCat("\"", key, "\" is missing"));
    }
  }
  Record record;
  record.sandbox_id = StringMember(*json, "sandboxId");
  record.netns_path = StringMember(*json, "netns");
  record.interface = StringMember(*json, "interface");
  record.config_json = DumpJson((*json)["config"]);
  record.config_file = StringMember(*json, "configFile");
  record.capability_args = DumpJson((*json)["capabilityArgs"]);
  record.cni_args = StringMember(*json, "cniArgs");
  record.added = StringMember(*json, "state") == "added";
  if (record.added && json->contains("result")) record.result_json = DumpJson((*json)["result"]);
  if (!IsContainerId(record.sandbox_id) || record.interface.empty()) {
    return broken("malformed sandbox id or interface");
  }
  return record;
}

absl::StatusOr<RecordStore> RecordStore::Open(const std::string& directory) {
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(directory, 0700));
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd fd,
                         sys::OpenAt(AT_FDCWD, directory, O_RDONLY | O_DIRECTORY));
  RecordStore store(directory, std::move(fd));
  store.RemoveRemains();
  return store;
}

void RecordStore::RemoveRemains() const {
  for (const std::string& name : Names()) {
    absl::string_view id = name;
    if (absl::ConsumePrefix(&id, ".")) {
      if (absl::ConsumeSuffix(&id, ".json.tmp") && IsContainerId(id)) {
        unlinkat(directory_.get(), name.c_str(), 0);
      }
    } else if (absl::ConsumeSuffix(&id, ".lock") && IsContainerId(id) &&
               faccessat(directory_.get(), FileName(std::string(id)).c_str(), F_OK, 0) != 0) {
      // A plugin is only ever run for a recorded attachment, so nobody holds it.
      unlinkat(directory_.get(), name.c_str(), 0);
    }
  }
}

std::vector<std::string> RecordStore::Names() const {
  std::vector<std::string> names;
  const int fd = openat(directory_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return names;
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(fd), closedir);
  while (const dirent* entry = readdir(stream.get())) names.emplace_back(entry->d_name);
  return names;
}

absl::StatusOr<sys::UniqueFd> RecordStore::Lock(const std::string& sandbox_id,
                                                absl::Time deadline) const {
  const std::string name = LockName(sandbox_id);
  absl::Duration pause = absl::Milliseconds(2);
  for (;;) {
    DAVIT_ASSIGN_OR_RETURN(
        sys::UniqueFd fd, sys::OpenAt(directory_.get(), name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
    if (flock(fd.get(), LOCK_EX | LOCK_NB) == 0) {
      // Whoever had it may have removed the file: only a lock on the file of that name counts.
      struct stat locked;
      struct stat named;
      if (fstat(fd.get(), &locked) == 0 &&
          fstatat(directory_.get(), name.c_str(), &named, AT_SYMLINK_NOFOLLOW) == 0 &&
          locked.st_ino == named.st_ino) {
        return fd;
      }
      continue;
    }
    if (errno != EWOULDBLOCK && errno != EINTR) {
      return sys::ErrnoStatus(errno, absl::StrCat("lock ", path_, "/", name));
    }
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat("a CNI operation on sandbox ", sandbox_id, " is still running"));
    }
    // A lock has no waiting with a time limit, and is waited for only by a repeated request or by a
    // daemon restarted in the middle of an ADD.
    absl::SleepFor(std::min(pause, left));
    pause = std::min(pause * 2, absl::Milliseconds(50));
  }
}

absl::StatusOr<Record> RecordStore::Read(const std::string& sandbox_id) const {
  const std::string name = FileName(sandbox_id);
  DAVIT_ASSIGN_OR_RETURN(const std::string text,
                         sys::ReadFileAt(directory_.get(), name, kMaxRecord));
  return DecodeRecord(text, absl::StrCat(path_, "/", name));
}

absl::Status RecordStore::Write(const Record& record, sys::Durability durability) const {
  return sys::Annotate(sys::WriteFileAtomic(directory_.get(), FileName(record.sandbox_id),
                                            EncodeRecord(record), 0600, durability),
                       absl::StrCat("record the CNI attachment of sandbox ", record.sandbox_id));
}

absl::Status RecordStore::Remove(const std::string& sandbox_id) const {
  const std::string name = FileName(sandbox_id);
  // Not fsynced: a record that comes back after a power cut owes one more DEL, which is harmless.
  if (unlinkat(directory_.get(), name.c_str(), 0) != 0 && errno != ENOENT) {
    return sys::ErrnoStatus(errno, absl::StrCat("remove ", path_, "/", name));
  }
  RemoveLock(sandbox_id);
  return absl::OkStatus();
}

absl::Status RecordStore::SetAside(const std::string& sandbox_id) const {
  const std::string name = FileName(sandbox_id);
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(absl::StrCat(path_, "/set-aside"), 0700));
  for (int n = 0;; ++n) {
    const std::string to = absl::StrCat("set-aside/", name, ".", n);
    if (renameat2(directory_.get(), name.c_str(), directory_.get(), to.c_str(), RENAME_NOREPLACE) ==
        0) {
      break;
    }
    if (errno != EEXIST) {
      return sys::ErrnoStatus(errno, absl::StrCat("set aside ", path_, "/", name));
    }
  }
  RemoveLock(sandbox_id);
  return absl::OkStatus();
}

void RecordStore::RemoveLock(const std::string& sandbox_id) const {
  unlinkat(directory_.get(), LockName(sandbox_id).c_str(), 0);
}

std::vector<Record> RecordStore::List(std::vector<std::string>* broken) const {
  std::vector<Record> records;
  for (const std::string& name : Names()) {
    if (absl::StartsWith(name, ".") || !absl::EndsWith(name, ".json")) continue;
    const std::string id = name.substr(0, name.size() - 5);
    auto record = Read(id);
    if (absl::IsNotFound(record.status())) continue;
    if (record.ok() && record->sandbox_id == id) {
      records.push_back(*std::move(record));
    } else if (broken != nullptr) {
      broken->push_back(name);
    }
  }
  std::sort(records.begin(), records.end(),
            [](const Record& a, const Record& b) { return a.sandbox_id < b.sandbox_id; });
  return records;
}

}  // namespace davit::sandbox::cni
