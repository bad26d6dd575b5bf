#ifndef DAVIT_SANDBOX_CNI_RECORD_H_
#define DAVIT_SANDBOX_CNI_RECORD_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "runtime/sys/file.h"
#include "runtime/sys/unique_fd.h"

// Attachments on disk. One file for each, <directory>/<sandbox id>.json, replaced atomically:
//
//   {
//     "version": 1,
//     "sandboxId": "...", "netns": "/run/netns/...", "interface": "eth0",
//     "config": { the network configuration list with which ADD was run },
//     "configFile": "/etc/cni/net.d/10-x.conflist",
//     "capabilityArgs": { "portMappings": [...], ... },
//     "cniArgs": "IgnoreUnknown=1;...",
//     "state": "adding" | "added",
//     "result": { what the last plugin printed }        only when added
//   }
//
// Beside it lies <sandbox id>.lock, an empty file that is locked (man 2 flock) during each
// operation on the attachment. Plugins inherit the lock, so it outlives a daemon that is killed
// meanwhile for as long as its plugin runs. It is removed with the record.
namespace davit::sandbox::cni {

struct Record {
  std::string sandbox_id;
  std::string netns_path;
  std::string interface;
  std::string config_json;
  std::string config_file;
  std::string capability_args = "{}";
  std::string cni_args;
  bool added = false;
  std::string result_json;
};

// One line of JSON, and back. DataLoss for a record that cannot be read or is of a newer version.
std::string EncodeRecord(const Record& record);
absl::StatusOr<Record> DecodeRecord(absl::string_view text, const std::string& file);

// Thread-safe. A descriptor of the directory is kept.
class RecordStore {
 public:
  // Makes the directory (0700) if it is missing, and removes what a daemon that was killed has left
  // in it: halves of records, and locks without one. There is one daemon for a directory.
  static absl::StatusOr<RecordStore> Open(const std::string& directory);

  // Waits for the sandbox's lock. DeadlineExceeded says that a plugin still runs.
  // The lock is held until the descriptor, and every copy of it, is closed.
  absl::StatusOr<sys::UniqueFd> Lock(const std::string& sandbox_id, absl::Time deadline) const;

  // The others are called with the lock held.
  absl::StatusOr<Record> Read(const std::string& sandbox_id) const;  // NotFound
  absl::Status Write(const Record& record, sys::Durability durability) const;
  // Removes the record, and the lock's file. Missing ones are success.
  absl::Status Remove(const std::string& sandbox_id) const;
  // Moves the record to set-aside/, where nothing reads it again, and removes the lock's file.
  absl::Status SetAside(const std::string& sandbox_id) const;
  // Removes the lock's file of a sandbox that has no record.
  void RemoveLock(const std::string& sandbox_id) const;

  // Every record; the names of the files that could not be read go to `broken` unless it is null.
  std::vector<Record> List(std::vector<std::string>* broken) const;

 private:
  explicit RecordStore(std::string path, sys::UniqueFd directory)
      : path_(std::move(path)), directory_(std::move(directory)) {}
  void RemoveRemains() const;
  std::vector<std::string> Names() const;

  std::string path_;
  sys::UniqueFd directory_;
};

}  // namespace davit::sandbox::cni

#endif  // DAVIT_SANDBOX_CNI_RECORD_H_
