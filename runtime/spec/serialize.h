#ifndef DAVIT_RUNTIME_SPEC_SERIALIZE_H_
#define DAVIT_RUNTIME_SPEC_SERIALIZE_H_

#include <string>

#include "runtime/spec/spec.h"

namespace davit::runtime::spec {

// The config.json of `spec`: indented by two spaces, keys in the order of the specification, the
// same text for equal values. Absent optionals and empty lists, maps and strings are left out, so
// ParseSpec(SerializeSpec(s)) equals s. Pure and thread-safe.
//
// JSON strings are Unicode, environment values and arguments are bytes. A byte that is not part of
// valid UTF-8 is written as the escape of the lone surrogate U+DC80 + (byte - 0x80), as Python's
// "surrogateescape" does; a lone surrogate cannot occur in valid UTF-8, so the rule is reversible,
// and ParseSpec reverses it. Other tools see an escaped character in its place.
std::string SerializeSpec(const Spec& spec);

}  // namespace davit::runtime::spec

#endif  // DAVIT_RUNTIME_SPEC_SERIALIZE_H_
