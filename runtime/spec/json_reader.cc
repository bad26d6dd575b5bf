#include "runtime/spec/json_reader.h"

#include <nlohmann/json.hpp>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace davit::runtime::spec {
namespace {

// Bytes that are not UTF-8 are carried as escaped lone surrogates (serialize.h), which the JSON
// library refuses. They are passed through it as characters of the last private-use block instead.
// A document that uses that block itself keeps its characters; one that needs both is refused.
constexpr char32_t kCarrier = 0x10FF00;

bool IsHex4(absl::string_view s) {
  if (s.size() < 4) return false;
  for (int i = 0; i < 4; ++i) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(s[i]))) return false;
  }
  return true;
}

uint32_t Hex4(absl::string_view s) {
  uint32_t value = 0;
  for (int i = 0; i < 4; ++i) {
    const char c = absl::ascii_tolower(static_cast<unsigned char>(s[i]));
    value = value * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
  }
  return value;
}

// Replaces \udc80..\udcff that follow no high surrogate by \udbff\udfXX (U+10FFXX). Sets
// `replaced`. Backslashes occur in JSON only inside strings, so no tokenizer is needed.
std::string CarryBytes(absl::string_view text, bool* replaced) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    if (text[i] != '\\' || i + 1 >= text.size()) {
      out.push_back(text[i++]);
      continue;
    }
    if (text[i + 1] != 'u' || !IsHex4(text.substr(i + 2))) {
      absl::StrAppend(&out, text.substr(i, 2));
      i += 2;
      continue;
    }
    const uint32_t unit = Hex4(text.substr(i + 2));
    if (unit >= 0xdc80 && unit <= 0xdcff) {
      absl::StrAppend(&out, "\\udbff\\udf", absl::Hex(unit & 0xff, absl::kZeroPad2));
      *replaced = true;
      i += 6;
      continue;
    }
    // A proper pair is copied whole, so that its low half is not taken for a byte.
    const bool pair = unit >= 0xd800 && unit <= 0xdbff && i + 12 <= text.size() &&
                      text[i + 6] == '\\' && text[i + 7] == 'u' && IsHex4(text.substr(i + 8));
    absl::StrAppend(&out, text.substr(i, pair ? 12 : 6));
    i += pair ? 12 : 6;
  }
  return out;
}

bool UsesCarrier(absl::string_view text) {
  return absl::StrContains(text, "\xf4\x8f\xbc") || absl::StrContains(text, "\xf4\x8f\xbd") ||
         absl::StrContains(text, "\xf4\x8f\xbe") || absl::StrContains(text, "\xf4\x8f\xbf") ||
         absl::StrContains(absl::AsciiStrToLower(text), "\\udbff");
}

// U+10FF80..U+10FFFF is F4 8F BE 80 .. F4 8F BF BF.
std::string RestoreBytes(const std::string& s) {
  std::string out;
  for (size_t i = 0; i < s.size(); ++i) {
    const auto third = i + 3 < s.size() ? static_cast<unsigned char>(s[i + 2]) : 0;
    if (s[i] == '\xf4' && i + 3 < s.size() && s[i + 1] == '\x8f' && third >= 0xbc) {
      const uint32_t low = ((third & 0x3fu) << 6) | (static_cast<unsigned char>(s[i + 3]) & 0x3fu);
      out.push_back(static_cast<char>((kCarrier | (low & 0xff)) & 0xff));
      i += 3;
    } else {
      out.push_back(s[i]);
    }
  }
  return out;
}

class TreeBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  TreeBuilder(int max_depth, bool restore) : max_depth_(max_depth), restore_(restore) {}

  JsonValue root;
  std::string error;

  bool null() override { return Add({}) != nullptr; }
  bool boolean(bool value) override {
    JsonValue v;
    v.type = JsonValue::Type::kBool;
    v.boolean = value;
    return Add(std::move(v)) != nullptr;
  }
  bool number_integer(int64_t value) override {
    JsonValue v;
    v.type = JsonValue::Type::kInteger;
    v.integer = value;
    return Add(std::move(v)) != nullptr;
  }
  bool number_unsigned(uint64_t value) override {
    JsonValue v;
    v.type = JsonValue::Type::kUnsigned;
    v.unsigned_integer = value;
    return Add(std::move(v)) != nullptr;
  }
  bool number_float(double value, const std::string&) override {
    JsonValue v;
    v.type = JsonValue::Type::kNumber;
    v.number = value;
    return Add(std::move(v)) != nullptr;
  }
  bool string(std::string& value) override {
    JsonValue v;
    v.type = JsonValue::Type::kString;
    v.string = restore_ ? RestoreBytes(value) : std::move(value);
    return Add(std::move(v)) != nullptr;
  }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override { return Push(JsonValue::Type::kObject); }
  bool start_array(size_t) override { return Push(JsonValue::Type::kArray); }
  bool end_object() override { return Pop(); }
  bool end_array() override { return Pop(); }

  bool key(std::string& value) override {
    Frame& top = stack_.back();
    top.key = restore_ ? RestoreBytes(value) : value;
    if (!top.keys.insert(top.key).second) {
      error = absl::StrCat(Path(), ": the key occurs twice");
      return false;
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    // The library's text begins with its own tag in brackets, which tells a person nothing.
    absl::string_view what = e.what();
    const size_t end = what.find("] ");
    if (end != absl::string_view::npos) what.remove_prefix(end + 2);
    error = absl::StrCat("byte ", position, ": ", what);
    return false;
  }

 private:
  struct Frame {
    JsonValue* value;
    std::string key;
    std::set<std::string> keys;
  };

  std::string Path() const {
    std::string path;
    for (size_t i = 0; i < stack_.size(); ++i) {
      const Frame& frame = stack_[i];
      if (frame.value->type == JsonValue::Type::kArray) {
        // The item that is being read has been added already, unless it is a scalar.
        const bool inside = i + 1 < stack_.size();
        absl::StrAppend(&path, "[", frame.value->items.size() - (inside ? 1 : 0), "]");
      } else {
        absl::StrAppend(&path, path.empty() ? "" : ".", frame.key);
      }
    }
    return path;
  }

  JsonValue* Add(JsonValue value) {
    if (stack_.empty()) {
      root = std::move(value);
      return &root;
    }
    JsonValue* parent = stack_.back().value;
    if (parent->type == JsonValue::Type::kArray) {
      parent->items.push_back(std::move(value));
      return &parent->items.back();
    }
    parent->members.push_back({stack_.back().key, std::move(value)});
    return &parent->members.back().value;
  }

  bool Push(JsonValue::Type type) {
    if (static_cast<int>(stack_.size()) >= max_depth_) {
      error = absl::StrCat(Path(), ": nested deeper than ", max_depth_, " levels");
      return false;
    }
    JsonValue v;
    v.type = type;
    JsonValue* added = Add(std::move(v));
    stack_.push_back({added, "", {}});
    return true;
  }

  bool Pop() {
    stack_.pop_back();
    return true;
  }

  const int max_depth_;
  const bool restore_;
  std::vector<Frame> stack_;
};

}  // namespace

const JsonValue* JsonValue::Find(absl::string_view key) const {
  for (const auto& [name, value] : members) {
    if (name == key) return &value;
  }
  return nullptr;
}

const char* TypeName(JsonValue::Type type) {
  switch (type) {
    case JsonValue::Type::kNull:
      return "null";
    case JsonValue::Type::kBool:
      return "a boolean";
    case JsonValue::Type::kInteger:
    case JsonValue::Type::kUnsigned:
      return "an integer";
    case JsonValue::Type::kNumber:
      return "a fractional number";
    case JsonValue::Type::kString:
      return "a string";
    case JsonValue::Type::kArray:
      return "an array";
    case JsonValue::Type::kObject:
      return "an object";
  }
  return "?";
}

absl::StatusOr<JsonValue> ReadJson(absl::string_view text, size_t max_bytes, int max_depth) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the document has ", text.size(), " bytes, more than ", max_bytes));
  }
  bool carried = false;
  std::string prepared;
  if (absl::StrContains(text, "\\u")) {
    prepared = CarryBytes(text, &carried);
    if (carried && UsesCarrier(text)) {
      return absl::InvalidArgumentError(
          "the document mixes escaped bytes with characters of U+10F000..U+10FFFF");
    }
  }
  TreeBuilder builder(max_depth, carried);
  const char* begin = carried ? prepared.data() : text.data();
  const size_t size = carried ? prepared.size() : text.size();
  if (!nlohmann::json::sax_parse(begin, begin + size, &builder)) {
    return absl::InvalidArgumentError(builder.error.empty() ? "not JSON" : builder.error);
  }
  return std::move(builder.root);
}

}  // namespace davit::runtime::spec
