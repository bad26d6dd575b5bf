#ifndef DAVIT_SANDBOX_RECORDS_H_
#define DAVIT_SANDBOX_RECORDS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::state::v1 {
class PodRecord;
class ContainerRecord;
}  // namespace davit::state::v1

// What davitd keeps of its pods across restarts, under the state directory:
//
//   pods/<pod id>/record                       this file's format, PodRecord
//   pods/<pod id>/stopped                      empty: the pod is stopped, whatever its record says
//   pods/<pod id>/{hostname,hosts,resolv.conf} bind-mounted into the containers
//   pods/<pod id>/supervisor.sock              the supervisor's
//   pods/<pod id>/containers/<id>/record       this file's format, ContainerRecord
//   pods/<pod id>/containers/<id>/config.json  the bundle
//   pods/<pod id>/containers/<id>/status       status_record.h, the supervisor's
//
// A directory without a record is one whose making (or removal) was cut short: nobody was told of
// it, and it is cleared away.
//
// Format of a record file, version 1; numbers are little-endian:
//
//   offset size
//        0    8  magic "DAVITPOD" or "DAVITCTR"
//        8    4  format version of the frame, 1
//       12    4  length of the payload
//       16    4  CRC-32 (zlib's) of the payload
//       20    4  zero
//       24       payload: a serialized davit.state.v1 message (proto/state.proto)
//
// Written to a temporary name and renamed, without fsync: a record describes processes, and has to
// outlive davitd, not the machine. On a full disk a record that is there already is overwritten in
// place.
namespace davit::sandbox {

inline constexpr uint32_t kRecordVersion = 1;
inline constexpr char kRecordFile[] = "record";

// What to do with a record whose format_version is greater than ours.
enum class Newer {
  kRefuse,  // Unimplemented, with both versions
  // Take the fields that are known. The others stay in the message, and so in the record that is
  // written from it.
  kTake,
};

// The sentence about a record, named `what`, of a format that is too new.
std::string NewerThanOurs(absl::string_view what, uint32_t version);

// All take the directory that holds the record. Errors of reading: NotFound without a file;
// DataLoss for a file that is not a record or is damaged; Unimplemented for a newer version, as far
// as `newer` does not take it.
absl::Status WritePodRecord(const std::string& directory, const state::v1::PodRecord& record);
// Says that a pod is stopped where there is no room for a new record: an empty file, which a full
// disk still takes.
absl::Status MarkPodStopped(const std::string& directory);
bool IsPodMarkedStopped(const std::string& directory);
absl::StatusOr<state::v1::PodRecord> ReadPodRecord(const std::string& directory,
                                                   Newer newer = Newer::kRefuse);
absl::Status WriteContainerRecord(const std::string& directory,
                                  const state::v1::ContainerRecord& record);
absl::StatusOr<state::v1::ContainerRecord> ReadContainerRecord(const std::string& directory,
                                                               Newer newer = Newer::kRefuse);

// The frame around a payload, and back.
std::string FrameRecord(absl::string_view magic, absl::string_view payload);
absl::StatusOr<std::string> UnframeRecord(absl::string_view magic, absl::string_view file);

// /proc/sys/kernel/random/boot_id: differs between any two runs of the machine.
absl::StatusOr<std::string> ReadBootId();

// The names in a directory; none if it does not exist.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);

// Moves what cannot be understood out of the way, to <directory>/set-aside/<name>.<n>, where a
// person can look at it and nothing reads it again. Returns the new path.
absl::StatusOr<std::string> SetAside(const std::string& directory, const std::string& name);
inline constexpr char kSetAsideDirectory[] = "set-aside";

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_RECORDS_H_
