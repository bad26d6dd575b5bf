#include "images/unpack/tar_parser.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

constexpr uint64_t kMaxExtensionBytes = 1 << 20;
constexpr size_t kMaxNameBytes = 4095;  // PATH_MAX without its NUL
// chown takes the last value as "leave it".
constexpr int64_t kMaxId = 0xfffffffe;
constexpr int64_t kMaxMajor = 0xfff;
constexpr int64_t kMaxMinor = 0xfffff;

uint64_t PaddingOf(uint64_t size) { return (kTarBlock - size % kTarBlock) % kTarBlock; }

bool IsExtension(char type) { return type == 'x' || type == 'g' || type == 'L' || type == 'K'; }

absl::Status Broken(const TarEntry& entry, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("tar entry \"", absl::CEscape(entry.path), "\": ", what));
}

absl::Status Refused(const TarEntry& entry, absl::string_view what) {
  return absl::FailedPreconditionError(
      absl::StrCat("tar entry \"", absl::CEscape(entry.path), "\": ", what));
}

absl::StatusOr<EntryType> TypeOf(const TarHeader& header, const TarEntry& entry, uint64_t stored) {
  switch (header.type) {
    case '\0':
    case '0':
      // v7 knew no directories; old writers mark them by a trailing slash.
      if (absl::EndsWith(entry.path, "/") && (header.type == '\0' || stored == 0)) {
        return EntryType::kDirectory;
      }
      return EntryType::kFile;
    case '7':
    case 'S':
      return EntryType::kFile;
    case '1':
      return EntryType::kHardLink;
    case '2':
      return EntryType::kSymlink;
    case '3':
      return EntryType::kCharDevice;
    case '4':
      return EntryType::kBlockDevice;
    case '5':
      return EntryType::kDirectory;
    case '6':
      return EntryType::kFifo;
    default:
      return Refused(entry, absl::StrCat("unknown type '",
                                         absl::CEscape(absl::string_view(&header.type, 1)), "'"));
  }
}

absl::Status CheckNames(const TarEntry& entry) {
  if (entry.path.empty()) return absl::DataLossError("a tar entry has no name");
  if (entry.path.size() > kMaxNameBytes) {
    return absl::FailedPreconditionError(absl::StrCat("a tar entry's name of ", entry.path.size(),
                                                      " bytes is longer than ", kMaxNameBytes));
  }
  if (entry.type != EntryType::kSymlink && entry.type != EntryType::kHardLink) {
    return absl::OkStatus();
  }
  if (entry.link.empty()) return Broken(entry, "a link without a target");
  if (entry.link.size() > kMaxNameBytes) return Refused(entry, "the link's target is too long");
  return absl::OkStatus();
}

}  // namespace

absl::Status TarParser::Push(absl::string_view data) {
  while (!data.empty()) {
    switch (state_) {
      case State::kHeader:
        if (FillBlock(&data)) DAVIT_RETURN_IF_ERROR(TakeHeaderBlock());
        break;
      case State::kSparseExtension:
        if (FillBlock(&data)) {
          bool extended = false;
          DAVIT_RETURN_IF_ERROR(ParseGnuSparseExtension(block_, &map_, &extended));
          block_.clear();
          if (map_.size() > kMaxSparseRuns) return Refused(entry_, "too many sparse runs");
          if (!extended) DAVIT_RETURN_IF_ERROR(AnnounceEntry());
        }
        break;
      case State::kSparseMap:
        if (FillBlock(&data)) DAVIT_RETURN_IF_ERROR(TakeSparseMapBlock());
        break;
      case State::kExtension: {
        const size_t take = std::min<uint64_t>(extension_left_, data.size());
        if (extension_type_ != 'g') extension_.append(data.data(), take);
        data.remove_prefix(take);
        extension_left_ -= take;
        if (extension_left_ == 0) DAVIT_RETURN_IF_ERROR(TakeExtension());
        break;
      }
      case State::kData:
        DAVIT_RETURN_IF_ERROR(TakeData(&data));
        break;
      case State::kPadding: {
        const size_t take = std::min<uint64_t>(padding_, data.size());
        data.remove_prefix(take);
        padding_ -= take;
        if (padding_ == 0) state_ = State::kHeader;
        break;
      }
      case State::kEnd:
        return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::Status TarParser::Finish() {
  const bool at_border = state_ == State::kEnd || state_ == State::kPadding ||
                         (state_ == State::kHeader && block_.empty());
  const bool entry_due = pax_.has_value() || gnu_name_.has_value() || gnu_link_.has_value();
  if (at_border && (state_ == State::kEnd || !entry_due)) return absl::OkStatus();
  if (!entry_.path.empty()) return Broken(entry_, "the tar stream is truncated here");
  return absl::DataLossError("the tar stream is truncated inside a header");
}

bool TarParser::FillBlock(absl::string_view* data) {
  const size_t take = std::min(kTarBlock - block_.size(), data->size());
  block_.append(data->data(), take);
  data->remove_prefix(take);
  return block_.size() == kTarBlock;
}

absl::Status TarParser::TakeHeaderBlock() {
  if (IsZeroBlock(block_)) {
    block_.clear();
    if (seen_zero_block_) state_ = State::kEnd;
    seen_zero_block_ = true;
    return absl::OkStatus();
  }
  if (seen_zero_block_) return absl::DataLossError("a tar entry follows a half end mark");
  DAVIT_ASSIGN_OR_RETURN(const TarHeader header, ParseTarHeader(block_));
  DAVIT_RETURN_IF_ERROR(TakeHeader(header));
  block_.clear();
  return absl::OkStatus();
}

absl::Status TarParser::TakeHeader(const TarHeader& header) {
  if (!IsExtension(header.type)) return BeginEntry(header);
  const auto size = static_cast<uint64_t>(header.size);
  if (size > kMaxExtensionBytes) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a tar extension header of ", size, " bytes is longer than ", kMaxExtensionBytes));
  }
  extension_type_ = header.type;
  extension_.clear();
  extension_left_ = size;
  padding_ = PaddingOf(size);
  if (size == 0) return TakeExtension();
  state_ = State::kExtension;
  return absl::OkStatus();
}

absl::Status TarParser::TakeExtension() {
  switch (extension_type_) {
    case 'x': {
      DAVIT_ASSIGN_OR_RETURN(pax_, ParsePax(extension_));
      break;
    }
    case 'L':
      gnu_name_ = extension_.substr(0, extension_.find('\0'));
      break;
    case 'K':
      gnu_link_ = extension_.substr(0, extension_.find('\0'));
      break;
    default:
      break;
  }
  extension_.clear();
  state_ = padding_ == 0 ? State::kHeader : State::kPadding;
  return absl::OkStatus();
}

absl::Status TarParser::MergeExtensions(const TarHeader& header) {
  const PaxOverrides pax = pax_.has_value() ? *std::move(pax_) : PaxOverrides();
  entry_.path = header.name;
  entry_.link = header.link;
  if (pax.path.has_value()) entry_.path = *pax.path;
  if (pax.link_path.has_value()) entry_.link = *pax.link_path;
  if (gnu_name_.has_value()) entry_.path = *gnu_name_;
  if (gnu_link_.has_value()) entry_.link = *gnu_link_;
  if (pax.sparse_name.has_value()) entry_.path = *pax.sparse_name;
  const int64_t size = pax.size.value_or(header.size);
  if (size < 0) return Broken(entry_, "its size is negative");
  stored_left_ = static_cast<uint64_t>(size);
  DAVIT_ASSIGN_OR_RETURN(entry_.type, TypeOf(header, entry_, stored_left_));
  DAVIT_RETURN_IF_ERROR(CheckNames(entry_));
  entry_.mode = static_cast<mode_t>(header.mode & 07777);
  const int64_t uid = pax.uid.value_or(header.uid);
  const int64_t gid = pax.gid.value_or(header.gid);
  if (uid < 0 || uid > kMaxId || gid < 0 || gid > kMaxId) {
    return Refused(entry_, absl::StrCat("owner ", uid, ":", gid, " is out of range"));
  }
  entry_.uid = static_cast<uint32_t>(uid);
  entry_.gid = static_cast<uint32_t>(gid);
  entry_.mtime = pax.mtime.value_or(timespec{header.mtime, 0});
  entry_.atime = pax.atime;
  if (entry_.type == EntryType::kCharDevice || entry_.type == EntryType::kBlockDevice) {
    if (header.major < 0 || header.major > kMaxMajor || header.minor < 0 ||
        header.minor > kMaxMinor) {
      return Refused(entry_, absl::StrCat("device number ", header.major, ":", header.minor,
                                          " is out of range"));
    }
    entry_.major = static_cast<uint32_t>(header.major);
    entry_.minor = static_cast<uint32_t>(header.minor);
  }
  entry_.xattrs = pax.xattrs;
  if (entry_.type != EntryType::kFile) {
    // Their size field is not followed by data, whatever it says; other readers agree.
    stored_left_ = 0;
    return absl::OkStatus();
  }
  entry_.size = stored_left_;
  if (header.type == 'S') return absl::OkStatus();
  entry_.sparse = pax.has_sparse_map || pax.sparse_1_0();
  if (!entry_.sparse) return absl::OkStatus();
  if (!pax.sparse_size.has_value() || *pax.sparse_size < 0) {
    return Broken(entry_, "a sparse file without a size");
  }
  entry_.size = static_cast<uint64_t>(*pax.sparse_size);
  if (pax.sparse_1_0()) {
    state_ = State::kSparseMap;
  } else {
    map_ = pax.sparse_map;
  }
  return absl::OkStatus();
}

absl::Status TarParser::BeginEntry(const TarHeader& header) {
  DAVIT_RETURN_IF_ERROR(MergeExtensions(header));
  stored_padding_ = PaddingOf(stored_left_);
  if (header.type == 'S') {
    entry_.sparse = true;
    bool extended = false;
    DAVIT_RETURN_IF_ERROR(ParseGnuSparseHeader(block_, &map_, &entry_.size, &extended));
    if (extended) {
      state_ = State::kSparseExtension;
      return absl::OkStatus();
    }
  } else if (state_ == State::kSparseMap) {
    map_numbers_left_ = -1;
    if (stored_left_ < kTarBlock) return Broken(entry_, "a sparse file without its map");
    return absl::OkStatus();
  } else if (!entry_.sparse) {
    map_.push_back({0, entry_.size});
  }
  return AnnounceEntry();
}

absl::Status TarParser::TakeSparseMapBlock() {
  for (const char c : block_) {
    if (map_numbers_left_ == 0) break;  // the rest pads
    if (c >= '0' && c <= '9') {
      map_number_ += c;
      if (map_number_.size() > 20) return Broken(entry_, "its sparse map has a number too large");
      continue;
    }
    int64_t number;
    if (c != '\n' || !absl::SimpleAtoi(map_number_, &number)) {
      return Broken(entry_, "its sparse map is not decimal lines");
    }
    map_number_.clear();
    if (map_numbers_left_ < 0) {
      if (static_cast<uint64_t>(number) > kMaxSparseRuns) {
        return Refused(entry_, "too many sparse runs");
      }
      map_numbers_left_ = number * 2;
      continue;
    }
    --map_numbers_left_;
    if (!map_offset_.has_value()) {
      map_offset_ = static_cast<uint64_t>(number);
    } else {
      map_.push_back({*map_offset_, static_cast<uint64_t>(number)});
      map_offset_.reset();
    }
  }
  block_.clear();
  stored_left_ -= kTarBlock;
  if (map_numbers_left_ == 0) return AnnounceEntry();
  if (stored_left_ < kTarBlock) return Broken(entry_, "its sparse map is truncated");
  return absl::OkStatus();
}

absl::Status TarParser::CheckSparseMap() const {
  uint64_t end = 0;
  uint64_t sum = 0;
  for (const SparseRun& run : map_) {
    if (run.offset < end || run.length > entry_.size || run.offset > entry_.size - run.length) {
      return Broken(entry_, "its sparse map is not ascending within the file");
    }
    end = run.offset + run.length;
    sum += run.length;
  }
  if (sum != stored_left_) return Broken(entry_, "its sparse map does not match its data");
  return absl::OkStatus();
}

absl::Status TarParser::AnnounceEntry() {
  if (entry_.type == EntryType::kFile) DAVIT_RETURN_IF_ERROR(CheckSparseMap());
  DAVIT_RETURN_IF_ERROR(visitor_->OnEntry(entry_));
  state_ = State::kData;
  if (stored_left_ == 0) return EndData();
  return absl::OkStatus();
}

absl::Status TarParser::TakeData(absl::string_view* data) {
  while (run_done_ == map_[run_].length) {  // empty runs, too
    ++run_;
    run_done_ = 0;
  }
  const SparseRun& run = map_[run_];
  const size_t take = std::min<uint64_t>(run.length - run_done_, data->size());
  DAVIT_RETURN_IF_ERROR(visitor_->OnData(run.offset + run_done_, data->substr(0, take)));
  data->remove_prefix(take);
  run_done_ += take;
  stored_left_ -= take;
  if (stored_left_ == 0) return EndData();
  return absl::OkStatus();
}

absl::Status TarParser::EndData() {
  DAVIT_RETURN_IF_ERROR(visitor_->OnEntryEnd());
  padding_ = stored_padding_;
  state_ = padding_ == 0 ? State::kHeader : State::kPadding;
  Reset();
  return absl::OkStatus();
}

void TarParser::Reset() {
  pax_.reset();
  gnu_name_.reset();
  gnu_link_.reset();
  entry_ = TarEntry();
  stored_padding_ = 0;
  map_.clear();
  run_ = 0;
  run_done_ = 0;
  map_number_.clear();
  map_offset_.reset();
}

}  // namespace davit::images::unpack
