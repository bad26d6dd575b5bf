#include "cri/request_summary.h"

#include "absl/strings/str_cat.h"

namespace davit::cri {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// A singular string field by name, or "".
std::string StringField(const Message& message, const char* name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr || field->is_repeated() ||
      field->cpp_type() != FieldDescriptor::CPPTYPE_STRING) {
    return "";
  }
  return message.GetReflection()->GetString(message, field);
}

// A singular message field that is set, or null.
const Message* MessageField(const Message& message, const char* name) {
  const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr || field->is_repeated() ||
      field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE ||
      !message.GetReflection()->HasField(message, field)) {
    return nullptr;
  }
  return &message.GetReflection()->GetMessage(message, field);
}

}  // namespace

std::string RequestSummary(const Message& request) {
  std::string summary = StringField(request, "container_id");
  if (summary.empty()) summary = StringField(request, "pod_sandbox_id");
  if (const Message* image = MessageField(request, "image")) {
    absl::StrAppend(&summary, summary.empty() ? "" : " ", StringField(*image, "image"));
  }
  if (const Message* config = MessageField(request, "config")) {
    if (const Message* metadata = MessageField(*config, "metadata")) {
      const std::string space = StringField(*metadata, "namespace");
      absl::StrAppend(&summary, summary.empty() ? "" : " ", space, space.empty() ? "" : "/",
                      StringField(*metadata, "name"));
    }
  }
  return summary;
}

}  // namespace davit::cri
