#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/plan/compile.h"
#include "runtime/plan/plan.h"

namespace davit::runtime::plan {

bool SetFault(int32_t number, int32_t error_number, CompiledPlan* plan) {
  Header* const header = reinterpret_cast<Header*>(plan->blob.data());
  if (number < 0 || static_cast<uint32_t>(number) >= header->parent_count + header->child_count) {
    return false;
  }
  header->fault_op = number;
  header->fault_errno = error_number;
  return true;
}

std::string Describe(absl::string_view blob) {
  const std::span<const unsigned char> bytes(reinterpret_cast<const unsigned char*>(blob.data()),
                                             blob.size());
  if (const char* error = Validate(bytes)) return absl::StrCat("invalid plan: ", error, "\n");
  const View view(bytes);
  std::string text;
  const auto list = [&](std::span<const Op> ops, const char* side) {
    for (const Op& op : ops) {
      absl::StrAppend(&text, side, " ", OpName(op.code));
      for (const auto& [name, slot] : {std::pair("a", op.a), {"b", op.b}, {"c", op.c}}) {
        if (slot >= 0) absl::StrAppend(&text, " ", name, "=", slot);
      }
      for (const auto& [name, number] : {std::pair("x", op.x),
                                         {"y", op.y},
                                         {"z", op.z},
                                         {"w", op.w},
                                         {"propagation", op.propagation}}) {
        if (number != 0) absl::StrAppend(&text, " ", name, "=0x", absl::Hex(number));
      }
      if (op.flags != 0) absl::StrAppend(&text, " flags=0x", absl::Hex(op.flags));
      for (const Ref ref : {op.s, op.t, op.u}) {
        if (ref.size == 0) continue;
        std::string value(view.String(ref), ref.size);
        for (char& c : value) {
          if (c == '\0') c = ' ';
          if (c < ' ' || c == 127) c = '.';
        }
        absl::StrAppend(&text, " \"", value, "\"");
      }
      text.push_back('\n');
    }
  };
  list(view.parent_ops(), "parent");
  list(view.child_ops(), "child");
  return text;
}

}  // namespace davit::runtime::plan
