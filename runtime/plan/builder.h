#ifndef DAVIT_RUNTIME_PLAN_BUILDER_H_
#define DAVIT_RUNTIME_PLAN_BUILDER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "runtime/plan/plan.h"

namespace davit::runtime::plan {

// Puts a plan together. The compiler appends operations; Finish lays them out. Not thread-safe.
class Builder {
 public:
  // An operation's absent strings are the empty one, at offset 0.
  explicit Builder(Kind kind) {
    header_.kind = kind;
    String("");
  }

  Header& header() { return header_; }

  // A new slot for a descriptor that an operation opens.
  int32_t NewSlot() { return next_slot_++; }

  // The reference to the operation is good until the next one is added to the same list.
  Op& Parent(Code code) { return Add(&parent_, code); }
  Op& Child(Code code) { return Add(&child_, code); }

  Ref String(absl::string_view value);
  // Items separated by NUL. An item must not hold one.
  Ref List(const std::vector<std::string>& items);

  std::string Finish();

 private:
  static Op& Add(std::vector<Op>* list, Code code) {
    list->push_back(Op{.code = code});
    return list->back();
  }

  Header header_;
  int32_t next_slot_ = kExternalSlots;
  std::vector<Op> parent_;
  std::vector<Op> child_;
  std::string data_;
};

}  // namespace davit::runtime::plan

#endif  // DAVIT_RUNTIME_PLAN_BUILDER_H_
