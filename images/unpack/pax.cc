#include "images/unpack/pax.h"

#include <cctype>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

constexpr absl::string_view kSchilyXattr = "SCHILY.xattr.";
constexpr absl::string_view kLibarchiveXattr = "LIBARCHIVE.xattr.";
// Names are compared with each other, so their number must not grow with the header's megabyte.
constexpr size_t kMaxXattrs = 1024;

absl::Status Malformed(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("a PAX header in tar is malformed: ", what));
}

bool IsDecimal(absl::string_view text) {
  if (text.empty()) return false;
  for (const char c : text) {
    if (c < '0' || c > '9') return false;
  }
  return true;
}

// SimpleAtoi would take blanks and a plus sign.
absl::StatusOr<int64_t> Decimal(absl::string_view key, absl::string_view text) {
  absl::string_view digits = text;
  absl::ConsumePrefix(&digits, "-");
  int64_t value;
  if (!IsDecimal(digits) || !absl::SimpleAtoi(text, &value)) {
    return Malformed(absl::StrCat(key, " is not a number"));
  }
  return value;
}

struct PaxRecord {
  absl::string_view key;
  absl::string_view value;
};

// Takes the first record off `data`.
absl::StatusOr<PaxRecord> NextRecord(absl::string_view* data) {
  const size_t space = data->find(' ');
  size_t length = 0;
  if (space == absl::string_view::npos || space > 10 || !IsDecimal(data->substr(0, space)) ||
      !absl::SimpleAtoi(data->substr(0, space), &length)) {
    return Malformed("a record has no length");
  }
  if (length > data->size() || length < space + 3) return Malformed("a record's length is wrong");
  absl::string_view body = data->substr(space + 1, length - space - 1);
  if (!absl::ConsumeSuffix(&body, "\n")) return Malformed("a record does not end in a newline");
  const size_t equals = body.find('=');
  if (equals == absl::string_view::npos || equals == 0) return Malformed("a record has no key");
  data->remove_prefix(length);
  return PaxRecord{body.substr(0, equals), body.substr(equals + 1)};
}

std::string UrlDecode(absl::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && isxdigit(static_cast<uint8_t>(text[i + 1])) &&
        isxdigit(static_cast<uint8_t>(text[i + 2]))) {
      out += absl::HexStringToBytes(text.substr(i + 1, 2));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

class PaxReader {
 public:
  absl::Status Take(const PaxRecord& record) {
    const auto& [key, value] = record;
    if (absl::StartsWith(key, kSchilyXattr)) {
      return TakeXattr(std::string(key.substr(kSchilyXattr.size())), std::string(value));
    }
    if (absl::StartsWith(key, kLibarchiveXattr)) {
      std::string decoded;
      // libarchive writes base64 without padding; absl accepts both.
      if (!absl::Base64Unescape(value, &decoded)) {
        return Malformed(absl::StrCat(key, " is not base64"));
      }
      return TakeXattr(UrlDecode(key.substr(kLibarchiveXattr.size())), std::move(decoded));
    }
    if (value.empty()) return absl::OkStatus();
    if (absl::StartsWith(key, "GNU.sparse.")) return TakeSparse(record);
    if (key == "path") return TakeName(record, &out_.path);
    if (key == "linkpath") return TakeName(record, &out_.link_path);
    if (key == "size") return TakeNumber(record, &out_.size);
    if (key == "uid") return TakeNumber(record, &out_.uid);
    if (key == "gid") return TakeNumber(record, &out_.gid);
    if (key == "mtime") return TakeTime(record, &out_.mtime);
    if (key == "atime") return TakeTime(record, &out_.atime);
    return absl::OkStatus();
  }

  absl::StatusOr<PaxOverrides> Finish() {
    if (pending_offset_.has_value()) return Malformed("a sparse offset has no length");
    return std::move(out_);
  }

 private:
  absl::Status TakeXattr(std::string name, std::string value) {
    if (name.empty() || name.find('\0') != std::string::npos) {
      return Malformed("the name of an extended attribute");
    }
    for (auto& [known, old] : out_.xattrs) {
      // bsdtar writes each attribute in both forms.
      if (known == name) {
        old = std::move(value);
        return absl::OkStatus();
      }
    }
    if (out_.xattrs.size() >= kMaxXattrs) return Malformed("too many extended attributes");
    out_.xattrs.emplace_back(std::move(name), std::move(value));
    return absl::OkStatus();
  }

  absl::Status TakeName(const PaxRecord& record, std::optional<std::string>* into) {
    if (record.value.find('\0') != absl::string_view::npos) {
      return Malformed(absl::StrCat(record.key, " has a NUL byte"));
    }
    *into = std::string(record.value);
    return absl::OkStatus();
  }

  absl::Status TakeNumber(const PaxRecord& record, std::optional<int64_t>* into) {
    DAVIT_ASSIGN_OR_RETURN(*into, Decimal(record.key, record.value));
    return absl::OkStatus();
  }

  absl::Status TakeTime(const PaxRecord& record, std::optional<timespec>* into) {
    DAVIT_ASSIGN_OR_RETURN(*into, ParsePaxTime(record.value));
    return absl::OkStatus();
  }

  absl::Status TakeSparse(const PaxRecord& record) {
    const absl::string_view key = absl::StripPrefix(record.key, "GNU.sparse.");
    if (key == "name") return TakeName(record, &out_.sparse_name);
    if (key == "realsize" || key == "size") return TakeNumber(record, &out_.sparse_size);
    if (key == "map") return TakeMap(record.value);
    if (key != "major" && key != "minor" && key != "offset" && key != "numbytes") {
      return absl::OkStatus();  // numblocks: the map tells
    }
    DAVIT_ASSIGN_OR_RETURN(const int64_t number, Decimal(record.key, record.value));
    if (key == "major") out_.sparse_major = number;
    if (key == "minor") out_.sparse_minor = number;
    if (key == "offset") {
      if (pending_offset_.has_value()) return Malformed("a sparse offset has no length");
      pending_offset_ = number;
    }
    if (key == "numbytes") {
      if (!pending_offset_.has_value()) return Malformed("a sparse length has no offset");
      DAVIT_RETURN_IF_ERROR(TakeRun(*pending_offset_, number));
      pending_offset_.reset();
    }
    return absl::OkStatus();
  }

  // Format 0.1: "offset,length,offset,length,..."
  absl::Status TakeMap(absl::string_view text) {
    out_.sparse_map.clear();
    out_.has_sparse_map = true;
    std::optional<int64_t> offset;
    for (bool more = true; more;) {
      const size_t comma = text.find(',');
      more = comma != absl::string_view::npos;
      DAVIT_ASSIGN_OR_RETURN(const int64_t number, Decimal("a sparse map", text.substr(0, comma)));
      if (more) text.remove_prefix(comma + 1);
      if (!offset.has_value()) {
        offset = number;
      } else {
        DAVIT_RETURN_IF_ERROR(TakeRun(*offset, number));
        offset.reset();
      }
    }
    if (offset.has_value()) return Malformed("a sparse offset has no length");
    return absl::OkStatus();
  }

  absl::Status TakeRun(int64_t offset, int64_t length) {
    if (offset < 0 || length < 0) return Malformed("a sparse run is negative");
    if (out_.sparse_map.size() >= kMaxSparseRuns) return Malformed("too many sparse runs");
    out_.has_sparse_map = true;
    out_.sparse_map.push_back({static_cast<uint64_t>(offset), static_cast<uint64_t>(length)});
    return absl::OkStatus();
  }

  PaxOverrides out_;
  std::optional<int64_t> pending_offset_;
};

}  // namespace

absl::StatusOr<timespec> ParsePaxTime(absl::string_view text) {
  const size_t dot = text.find('.');
  const absl::string_view whole = text.substr(0, dot);
  DAVIT_ASSIGN_OR_RETURN(const int64_t seconds, Decimal("a time", whole));
  int64_t nanoseconds = 0;
  if (dot != absl::string_view::npos) {
    const absl::string_view fraction = text.substr(dot + 1);
    if (!fraction.empty() && !IsDecimal(fraction)) return Malformed("a time is not a number");
    int64_t unit = 100'000'000;
    for (const char c : fraction.substr(0, 9)) {
      nanoseconds += (c - '0') * unit;
      unit /= 10;
    }
  }
  if (absl::StartsWith(whole, "-") && nanoseconds != 0) {
    if (seconds == std::numeric_limits<int64_t>::min()) return Malformed("a time is too small");
    return timespec{seconds - 1, 1'000'000'000 - nanoseconds};
  }
  return timespec{seconds, nanoseconds};
}

absl::StatusOr<PaxOverrides> ParsePax(absl::string_view data) {
  PaxReader reader;
  while (!data.empty()) {
    DAVIT_ASSIGN_OR_RETURN(const PaxRecord record, NextRecord(&data));
    DAVIT_RETURN_IF_ERROR(reader.Take(record));
  }
  return reader.Finish();
}

}  // namespace davit::images::unpack
