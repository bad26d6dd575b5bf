#include "sandbox/status_record.h"

#include <endian.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/utf8.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::ContainerState;

constexpr char kMagic[8] = {'D', 'A', 'V', 'I', 'T', 'S', 'T', '\0'};
constexpr uint32_t kVersion = 1;
constexpr size_t kCheckedHeader = 24;
constexpr size_t kMaxPayload = kStatusSlotSize - kStatusHeaderSize;

// CRC-32C by nibbles: records are short and rare, a 64-byte table is enough.
constexpr std::array<uint32_t, 16> MakeCrcTable() {
  std::array<uint32_t, 16> table{};
  for (uint32_t i = 0; i < 16; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 4; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 16> kCrcTable = MakeCrcTable();

uint32_t ExtendCrc(uint32_t crc, absl::string_view data) {
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    crc = (crc >> 4) ^ kCrcTable[crc & 15];
    crc = (crc >> 4) ^ kCrcTable[crc & 15];
  }
  return crc;
}

uint32_t Checksum(absl::string_view header, absl::string_view payload) {
  return ~ExtendCrc(ExtendCrc(~0u, header.substr(0, kCheckedHeader)), payload);
}

void Put32(char* at, uint32_t value) {
  value = htole32(value);
  memcpy(at, &value, sizeof value);
}
void Put64(char* at, uint64_t value) {
  value = htole64(value);
  memcpy(at, &value, sizeof value);
}
uint32_t Get32(const char* at) {
  uint32_t value;
  memcpy(&value, at, sizeof value);
  return le32toh(value);
}
uint64_t Get64(const char* at) {
  uint64_t value;
  memcpy(&value, at, sizeof value);
  return le64toh(value);
}

struct Slot {
  enum class Kind { kEmpty, kValid, kBad, kNewer } kind = Kind::kEmpty;
  uint64_t sequence = 0;
  absl::string_view payload;
};

Slot ParseSlot(absl::string_view bytes, size_t index) {
  Slot slot;
  if (bytes.find_first_not_of('\0') == absl::string_view::npos) return slot;
  slot.kind = Slot::Kind::kBad;
  if (bytes.size() < kStatusHeaderSize) return slot;
  if (memcmp(bytes.data(), kMagic, sizeof kMagic) != 0) return slot;
  const uint32_t length = Get32(bytes.data() + 12);
  if (length > kMaxPayload || kStatusHeaderSize + length > bytes.size()) return slot;
  slot.payload = bytes.substr(kStatusHeaderSize, length);
  if (Get32(bytes.data() + 24) != Checksum(bytes, slot.payload)) return slot;
  slot.sequence = Get64(bytes.data() + 16);
  if (slot.sequence == 0 || slot.sequence % 2 != index) return slot;
  slot.kind = Get32(bytes.data() + 8) == kVersion ? Slot::Kind::kValid : Slot::Kind::kNewer;
  return slot;
}

struct Newest {
  Slot slot;
  bool bad = false;  // a slot holds something that is no record
};

Newest FindNewest(absl::string_view file) {
  Newest newest;
  for (size_t index = 0; index < 2; ++index) {
    if (file.size() <= index * kStatusSlotSize) break;
    const Slot slot = ParseSlot(file.substr(index * kStatusSlotSize, kStatusSlotSize), index);
    if (slot.kind == Slot::Kind::kBad) newest.bad = true;
    if (slot.sequence > newest.slot.sequence && slot.kind != Slot::Kind::kBad) newest.slot = slot;
  }
  return newest;
}

}  // namespace

absl::StatusOr<StatusWriter> StatusWriter::Open(const std::string& path) {
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd fd,
                         sys::OpenAt(AT_FDCWD, path, O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  int error = posix_fallocate(fd.get(), 0, kStatusFileSize);
  if (error != 0) return sys::ErrnoStatus(error, absl::StrCat("reserve ", path));
  auto writer = Adopt(std::move(fd));
  if (!writer.ok()) return sys::Annotate(writer.status(), path);
  return writer;
}

absl::StatusOr<StatusWriter> StatusWriter::Adopt(sys::UniqueFd fd) {
  StatusWriter writer;
  writer.fd_ = std::move(fd);
  char file[kStatusFileSize];
  const ssize_t n = pread(writer.fd_.get(), file, sizeof file, 0);
  if (n < 0) return sys::ErrnoStatus(errno, "read the status record");
  writer.sequence_ = FindNewest(absl::string_view(file, static_cast<size_t>(n))).slot.sequence;
  return writer;
}

absl::Status StatusWriter::Write(const ContainerState& state) {
  ContainerState shortened;
  const ContainerState* record = &state;
  if (state.message().size() > kStatusMaxMessage) {
    shortened = state;
    shortened.set_message(std::string(sys::TruncateUtf8(state.message(), kStatusMaxMessage)));
    record = &shortened;
  }
  char slot[kStatusSlotSize] = {};
  const size_t length = record->ByteSizeLong();
  if (length > kMaxPayload) {
    return absl::InvalidArgumentError(
        absl::StrCat("status record: ", length, " bytes do not fit ", kMaxPayload));
  }
  record->SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(slot + kStatusHeaderSize));
  memcpy(slot, kMagic, sizeof kMagic);
  Put32(slot + 8, kVersion);
  Put32(slot + 12, static_cast<uint32_t>(length));
  Put64(slot + 16, sequence_ + 1);
  Put32(slot + 24, Checksum(absl::string_view(slot, kStatusHeaderSize),
                            absl::string_view(slot + kStatusHeaderSize, length)));
  // The slot's tail may hold a longer, older record: the length says where this one ends.
  const size_t size = kStatusHeaderSize + length;
  const off_t offset = static_cast<off_t>(((sequence_ + 1) % 2) * kStatusSlotSize);
  ssize_t n;
  do {
    n = pwrite(fd_.get(), slot, size, offset);
  } while (n < 0 && errno == EINTR);
  if (n < 0) return sys::ErrnoStatus(errno, "write status record");
  if (static_cast<size_t>(n) != size) {
    return absl::InternalError(absl::StrCat("write status record: ", n, " bytes of ", size));
  }
  ++sequence_;
  return absl::OkStatus();
}

absl::StatusOr<ContainerState> ParseStatus(absl::string_view file) {
  const Newest newest = FindNewest(file);
  if (newest.slot.kind == Slot::Kind::kNewer) {
    return absl::UnimplementedError("status record: written by a newer version");
  }
  if (newest.slot.kind != Slot::Kind::kValid) {
    if (newest.bad) return absl::DataLossError("status record: no slot is valid");
    return absl::NotFoundError("status record: none was written");
  }
  ContainerState state;
  if (!state.ParseFromArray(newest.slot.payload.data(),
                            static_cast<int>(newest.slot.payload.size()))) {
    return absl::DataLossError("status record: the payload is no ContainerState");
  }
  return state;
}

absl::StatusOr<ContainerState> ReadStatus(const std::string& path) {
  // A longer file is no reason to refuse what its first slots say.
  auto file = sys::ReadFileAt(AT_FDCWD, path, 4 * kStatusFileSize);
  if (!file.ok()) return file.status();
  auto state = ParseStatus(*file);
  if (!state.ok()) return sys::Annotate(state.status(), path);
  return state;
}

}  // namespace davit::sandbox
