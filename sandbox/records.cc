#include "sandbox/records.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "proto/state.pb.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/version.h"

namespace davit::sandbox {
namespace {

constexpr char kPodMagic[] = "DAVITPOD";
constexpr char kContainerMagic[] = "DAVITCTR";
constexpr char kStoppedFile[] = "stopped";
constexpr size_t kHeaderSize = 24;
// Annotations and metadata are what makes a record big; the kubelet's limit for all of a pod's
// annotations is 256 KiB, and gRPC's for a message is what a peer can send at most.
constexpr size_t kMaxRecord = 32 * 1024 * 1024;

void PutU32(std::string* out, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) out->push_back(static_cast<char>(value >> shift));
}

uint32_t GetU32(absl::string_view in, size_t offset) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    value |= static_cast<uint32_t>(static_cast<unsigned char>(in[offset + i])) << (8 * i);
  }
  return value;
}

uint32_t Crc(absl::string_view data) {
  return static_cast<uint32_t>(
      crc32_z(0, reinterpret_cast<const unsigned char*>(data.data()), data.size()));
}

// In the blocks that the record has, if it fits. Its checksum tells if this was cut short.
bool OverwriteRecord(int dir, absl::string_view frame) {
  auto file = sys::OpenAt(dir, kRecordFile, O_WRONLY | O_NOFOLLOW);
  struct stat st;
  if (!file.ok() || fstat(file->get(), &st) != 0) return false;
  if (static_cast<uint64_t>(st.st_blocks) * 512 < frame.size()) return false;
  ssize_t n;
  do {
    n = pwrite(file->get(), frame.data(), frame.size(), 0);
  } while (n < 0 && errno == EINTR);
  if (n != static_cast<ssize_t>(frame.size())) return false;
  return ftruncate(file->get(), static_cast<off_t>(frame.size())) == 0;
}

template <typename Record>
absl::Status WriteRecord(const std::string& directory, absl::string_view magic,
                         const Record& record) {
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd dir, sys::OpenDirAt(AT_FDCWD, directory));
  const std::string frame = FrameRecord(magic, record.SerializeAsString());
  absl::Status status =
      sys::WriteFileAtomic(dir.get(), kRecordFile, frame, 0600, sys::Durability::kProcess);
  // What is already there can be stopped and removed on a full disk, too.
  if (absl::IsResourceExhausted(status) && OverwriteRecord(dir.get(), frame)) {
    return absl::OkStatus();
  }
  return sys::Annotate(status, absl::StrCat("write the record in ", directory));
}

template <typename Record>
absl::StatusOr<Record> ReadRecord(const std::string& directory, absl::string_view magic,
                                  Newer newer) {
  const std::string path = absl::StrCat(directory, "/", kRecordFile);
  DAVIT_ASSIGN_OR_RETURN(std::string file, sys::ReadFileAt(AT_FDCWD, path, kMaxRecord));
  auto payload = UnframeRecord(magic, file);
  if (!payload.ok()) return sys::Annotate(payload.status(), path);
  Record record;
  if (!record.ParseFromString(*payload)) {
    return absl::DataLossError(absl::StrCat(path, ": the payload is not a record"));
  }
  if (record.format_version() > kRecordVersion && newer == Newer::kRefuse) {
    return absl::UnimplementedError(NewerThanOurs(path, record.format_version()));
  }
  return record;
}

}  // namespace

std::string FrameRecord(absl::string_view magic, absl::string_view payload) {
  std::string out;
  out.reserve(kHeaderSize + payload.size());
  out.append(magic.data(), magic.size());
  PutU32(&out, kRecordVersion);
  PutU32(&out, static_cast<uint32_t>(payload.size()));
  PutU32(&out, Crc(payload));
  PutU32(&out, 0);
  out.append(payload.data(), payload.size());
  return out;
}

absl::StatusOr<std::string> UnframeRecord(absl::string_view magic, absl::string_view file) {
  if (file.size() < kHeaderSize || file.substr(0, magic.size()) != magic) {
    return absl::DataLossError("not a record of davitd's");
  }
  const uint32_t version = GetU32(file, 8);
  if (version > kRecordVersion) {
    return absl::UnimplementedError(NewerThanOurs("the record", version));
  }
  const absl::string_view payload = file.substr(kHeaderSize);
  if (payload.size() != GetU32(file, 12) || Crc(payload) != GetU32(file, 16)) {
    return absl::DataLossError("the record is damaged: its length or checksum is wrong");
  }
  return std::string(payload);
}

std::string NewerThanOurs(absl::string_view what, uint32_t version) {
  return absl::StrCat(what, " has format ", version, ", written by a newer davitd; davitd ",
                      sys::Version(), " reads formats up to ", kRecordVersion);
}

absl::Status WritePodRecord(const std::string& directory, const state::v1::PodRecord& record) {
  return WriteRecord(directory, kPodMagic, record);
}
absl::StatusOr<state::v1::PodRecord> ReadPodRecord(const std::string& directory, Newer newer) {
  return ReadRecord<state::v1::PodRecord>(directory, kPodMagic, newer);
}
absl::Status MarkPodStopped(const std::string& directory) {
  return sys::OpenAt(AT_FDCWD, absl::StrCat(directory, "/", kStoppedFile),
                     O_WRONLY | O_CREAT | O_NOFOLLOW, 0600)
      .status();
}
bool IsPodMarkedStopped(const std::string& directory) {
  return faccessat(AT_FDCWD, absl::StrCat(directory, "/", kStoppedFile).c_str(), F_OK,
                   AT_SYMLINK_NOFOLLOW) == 0;
}
absl::Status WriteContainerRecord(const std::string& directory,
                                  const state::v1::ContainerRecord& record) {
  return WriteRecord(directory, kContainerMagic, record);
}
absl::StatusOr<state::v1::ContainerRecord> ReadContainerRecord(const std::string& directory,
                                                               Newer newer) {
  return ReadRecord<state::v1::ContainerRecord>(directory, kContainerMagic, newer);
}

absl::StatusOr<std::string> ReadBootId() {
  DAVIT_ASSIGN_OR_RETURN(std::string text,
                         sys::ReadFileAt(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64));
  return std::string(absl::StripAsciiWhitespace(text));
}

absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(path.c_str()), closedir);
  if (dir == nullptr) {
    if (errno == ENOENT) return std::vector<std::string>();
    return sys::ErrnoStatus(errno, absl::StrCat("list ", path));
  }
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = readdir(dir.get());
    if (entry == nullptr) break;
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
      names.emplace_back(entry->d_name);
    }
  }
  if (errno != 0) return sys::ErrnoStatus(errno, absl::StrCat("list ", path));
  return names;
}

absl::StatusOr<std::string> SetAside(const std::string& directory, const std::string& name) {
  const std::string aside = absl::StrCat(directory, "/", kSetAsideDirectory);
  DAVIT_RETURN_IF_ERROR(sys::MakeDirs(aside, 0700));
  const std::string from = absl::StrCat(directory, "/", name);
  for (int n = 0;; ++n) {
    const std::string to = absl::StrCat(aside, "/", name, ".", n);
    if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return to;
    if (errno != EEXIST) return sys::ErrnoStatus(errno, absl::StrCat("set aside ", from));
  }
}

}  // namespace davit::sandbox
