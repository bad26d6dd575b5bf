#include "cri/nul_bytes.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/message.h"

namespace davit::cri {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// The path of the first string with a NUL byte below `message`, "" if there is none.
std::string Find(const Message& message);

std::string FindInField(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& reflection = *message.GetReflection();
  const bool repeated = index >= 0;
  const std::string name = repeated ? absl::StrCat(field.name(), "[", index, "]") : field.name();
  if (field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) {
    const std::string below = Find(repeated ? reflection.GetRepeatedMessage(message, &field, index)
                                            : reflection.GetMessage(message, &field));
    return below.empty() ? "" : absl::StrCat(name, ".", below);
  }
  std::string scratch;
  const std::string& text =
      repeated ? reflection.GetRepeatedStringReference(message, &field, index, &scratch)
               : reflection.GetStringReference(message, &field, &scratch);
  return text.find('\0') == std::string::npos ? "" : name;
}

std::string Find(const Message& message) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    // Not bytes, which mean what they hold.
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE &&
        field->type() != FieldDescriptor::TYPE_STRING) {
      continue;
    }
    // The entries of a map are messages with a key and a value.
    const int count = field->is_repeated() ? message.GetReflection()->FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      std::string path = FindInField(message, *field, field->is_repeated() ? i : -1);
      if (!path.empty()) return path;
    }
  }
  return "";
}

}  // namespace

absl::Status CheckNoNulBytes(const Message& message, absl::string_view name) {
  const std::string path = Find(message);
  if (path.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, ".", path, " contains a NUL byte"));
}

}  // namespace davit::cri
