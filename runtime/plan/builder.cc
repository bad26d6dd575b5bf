#include "runtime/plan/builder.h"

#include <cstring>

namespace davit::runtime::plan {

Ref Builder::String(absl::string_view value) {
  Ref ref{static_cast<uint32_t>(data_.size()), static_cast<uint32_t>(value.size())};
  data_.append(value.data(), value.size());
  data_.push_back('\0');
  // Strings may be arrays of numbers or instructions: each starts aligned.
  while (data_.size() % 8 != 0) data_.push_back('\0');
  return ref;
}

Ref Builder::List(const std::vector<std::string>& items) {
  std::string joined;
  for (const std::string& item : items) {
    joined += item;
    joined.push_back('\0');
  }
  return String(joined);
}

std::string Builder::Finish() {
  memcpy(header_.magic, kMagic, sizeof(kMagic));
  header_.version = kPlanVersion;
  header_.slot_count = static_cast<uint32_t>(next_slot_);
  header_.parent_count = static_cast<uint32_t>(parent_.size());
  header_.child_count = static_cast<uint32_t>(child_.size());
  const size_t ops = (parent_.size() + child_.size()) * sizeof(Op);
  header_.data_offset = static_cast<uint32_t>(sizeof(Header) + ops);
  header_.data_size = static_cast<uint32_t>(data_.size());
  header_.total_size = header_.data_offset + header_.data_size;
  std::string blob;
  blob.reserve(header_.total_size);
  blob.append(reinterpret_cast<const char*>(&header_), sizeof(header_));
  blob.append(reinterpret_cast<const char*>(parent_.data()), parent_.size() * sizeof(Op));
  blob.append(reinterpret_cast<const char*>(child_.data()), child_.size() * sizeof(Op));
  blob += data_;
  return blob;
}

}  // namespace davit::runtime::plan
