#include "images/unpack/tar_header.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

// Field positions (POSIX pax, "ustar Interchange Format"; tar.h of GNU tar for the others).
constexpr size_t kNameSize = 100;
constexpr size_t kModeAt = 100, kUidAt = 108, kGidAt = 116, kIdSize = 8;
constexpr size_t kSizeAt = 124, kMtimeAt = 136, kWideSize = 12;
constexpr size_t kChecksumAt = 148, kChecksumSize = 8;
constexpr size_t kTypeAt = 156, kLinkAt = 157;
constexpr size_t kMagicAt = 257;
constexpr size_t kMajorAt = 329, kMinorAt = 337;
constexpr size_t kPrefixAt = 345, kPrefixSize = 155, kStarPrefixSize = 131;
constexpr size_t kStarTrailerAt = 508;
constexpr size_t kGnuAtimeAt = 345, kGnuCtimeAt = 357;
constexpr size_t kGnuSparseAt = 386, kGnuSparseRuns = 4;
constexpr size_t kGnuExtendedAt = 482, kGnuRealSizeAt = 483;
constexpr size_t kGnuExtensionRuns = 21, kGnuExtensionExtendedAt = 504;

// A string field ends at its first NUL, or at its full width.
absl::string_view Text(absl::string_view block, size_t at, size_t size) {
  const absl::string_view field = block.substr(at, size);
  return field.substr(0, field.find('\0'));
}

absl::StatusOr<int64_t> ParseBase256(absl::string_view field) {
  const bool negative = (field[0] & 0x40) != 0;
  // Working on the complement keeps a negative number's bytes positive.
  const uint8_t flip = negative ? 0xff : 0;
  uint64_t value = 0;
  for (size_t i = 0; i < field.size(); ++i) {
    uint8_t byte = static_cast<uint8_t>(field[i]) ^ flip;
    if (i == 0) byte &= 0x7f;
    if ((value >> 56) != 0) return absl::DataLossError("a base-256 number in tar is too large");
    value = (value << 8) | byte;
  }
  if ((value >> 63) != 0) return absl::DataLossError("a base-256 number in tar is too large");
  return negative ? ~static_cast<int64_t>(value) : static_cast<int64_t>(value);
}

bool ChecksumMatches(absl::string_view block) {
  int64_t as_unsigned = 0;
  int64_t as_signed = 0;
  for (size_t i = 0; i < kTarBlock; ++i) {
    const bool in_field = i >= kChecksumAt && i < kChecksumAt + kChecksumSize;
    const char byte = in_field ? ' ' : block[i];
    as_unsigned += static_cast<uint8_t>(byte);
    as_signed += static_cast<signed char>(byte);
  }
  const auto stored = ParseTarNumber(block.substr(kChecksumAt, kChecksumSize));
  return stored.ok() && (*stored == as_unsigned || *stored == as_signed);
}

TarDialect DialectOf(absl::string_view block) {
  const absl::string_view magic = block.substr(kMagicAt, 8);
  if (magic == absl::string_view("ustar  \0", 8)) return TarDialect::kGnu;
  if (magic.substr(0, 6) != absl::string_view("ustar\0", 6)) return TarDialect::kV7;
  if (block.substr(kStarTrailerAt, 4) == absl::string_view("tar\0", 4)) return TarDialect::kStar;
  return TarDialect::kUstar;
}

// Go's writer before 1.8 put a ustar prefix into GNU headers, where atime and ctime belong; images
// of that time are still served. Such a field does not parse as a number but is plain text.
absl::string_view MistakenGnuPrefix(absl::string_view block) {
  if (ParseTarNumber(block.substr(kGnuAtimeAt, kWideSize)).ok() &&
      ParseTarNumber(block.substr(kGnuCtimeAt, kWideSize)).ok()) {
    return {};
  }
  const absl::string_view prefix = Text(block, kPrefixAt, kPrefixSize);
  const bool plain =
      std::all_of(prefix.begin(), prefix.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
  return plain ? prefix : absl::string_view();
}

absl::Status AppendRuns(absl::string_view table, size_t count, std::vector<SparseRun>* map) {
  for (size_t i = 0; i < count; ++i) {
    const absl::string_view run = table.substr(i * 2 * kWideSize, 2 * kWideSize);
    if (run[0] == '\0') break;  // the table is full of NULs behind its last run
    DAVIT_ASSIGN_OR_RETURN(const int64_t offset, ParseTarNumber(run.substr(0, kWideSize)));
    DAVIT_ASSIGN_OR_RETURN(const int64_t length, ParseTarNumber(run.substr(kWideSize)));
    if (offset < 0 || length < 0) return absl::DataLossError("a sparse run in tar is negative");
    map->push_back({static_cast<uint64_t>(offset), static_cast<uint64_t>(length)});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> ParseTarNumber(absl::string_view field) {
  if (!field.empty() && (field[0] & 0x80) != 0) return ParseBase256(field);
  const auto padding = [](char c) { return c == ' ' || c == '\0'; };
  while (!field.empty() && padding(field.front())) field.remove_prefix(1);
  field = field.substr(0, field.find('\0'));
  while (!field.empty() && padding(field.back())) field.remove_suffix(1);
  uint64_t value = 0;
  for (const char c : field) {
    if (c < '0' || c > '7') return absl::DataLossError("a number in tar is not octal");
    if ((value >> 60) != 0) return absl::DataLossError("an octal number in tar is too large");
    value = value * 8 + static_cast<uint64_t>(c - '0');
  }
  return static_cast<int64_t>(value);
}

bool IsZeroBlock(absl::string_view block) {
  return block.find_first_not_of('\0') == absl::string_view::npos;
}

absl::StatusOr<TarHeader> ParseTarHeader(absl::string_view block) {
  if (!ChecksumMatches(block)) return absl::DataLossError("a tar header's checksum is wrong");
  TarHeader header;
  header.dialect = DialectOf(block);
  header.type = block[kTypeAt];
  header.name = std::string(Text(block, 0, kNameSize));
  header.link = std::string(Text(block, kLinkAt, kNameSize));
  DAVIT_ASSIGN_OR_RETURN(header.mode, ParseTarNumber(block.substr(kModeAt, kIdSize)));
  DAVIT_ASSIGN_OR_RETURN(header.uid, ParseTarNumber(block.substr(kUidAt, kIdSize)));
  DAVIT_ASSIGN_OR_RETURN(header.gid, ParseTarNumber(block.substr(kGidAt, kIdSize)));
  DAVIT_ASSIGN_OR_RETURN(header.size, ParseTarNumber(block.substr(kSizeAt, kWideSize)));
  DAVIT_ASSIGN_OR_RETURN(header.mtime, ParseTarNumber(block.substr(kMtimeAt, kWideSize)));
  if (header.size < 0) return absl::DataLossError("a tar entry's size is negative");
  if (header.type == '3' || header.type == '4') {
    DAVIT_ASSIGN_OR_RETURN(header.major, ParseTarNumber(block.substr(kMajorAt, kIdSize)));
    DAVIT_ASSIGN_OR_RETURN(header.minor, ParseTarNumber(block.substr(kMinorAt, kIdSize)));
  }
  absl::string_view prefix;
  switch (header.dialect) {
    case TarDialect::kV7:
      break;
    case TarDialect::kUstar:
      prefix = Text(block, kPrefixAt, kPrefixSize);
      break;
    case TarDialect::kStar:
      prefix = Text(block, kPrefixAt, kStarPrefixSize);
      break;
    case TarDialect::kGnu:
      if (header.type != 'S') prefix = MistakenGnuPrefix(block);
      break;
  }
  if (!prefix.empty()) header.name = absl::StrCat(prefix, "/", header.name);
  return header;
}

absl::Status ParseGnuSparseHeader(absl::string_view block, std::vector<SparseRun>* map,
                                  uint64_t* real_size, bool* extended) {
  DAVIT_ASSIGN_OR_RETURN(const int64_t size,
                         ParseTarNumber(block.substr(kGnuRealSizeAt, kWideSize)));
  if (size < 0) return absl::DataLossError("a sparse tar entry's size is negative");
  *real_size = static_cast<uint64_t>(size);
  *extended = block[kGnuExtendedAt] != '\0';
  return AppendRuns(block.substr(kGnuSparseAt), kGnuSparseRuns, map);
}

absl::Status ParseGnuSparseExtension(absl::string_view block, std::vector<SparseRun>* map,
                                     bool* extended) {
  *extended = block[kGnuExtensionExtendedAt] != '\0';
  return AppendRuns(block, kGnuExtensionRuns, map);
}

}  // namespace davit::images::unpack
