#ifndef DAVIT_CRI_NUL_BYTES_H_
#define DAVIT_CRI_NUL_BYTES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace davit::cri {

// InvalidArgument that names the field ("config.linux.security_context.masked_paths[1]") if any
// string of the message, at any depth, holds a NUL byte. What comes after one is lost on the way to
// the kernel: "/proc/kcore\0x" would mask something else than it says. Pure and thread-safe.
absl::Status CheckNoNulBytes(const google::protobuf::Message& message, absl::string_view name);

}  // namespace davit::cri

#endif  // DAVIT_CRI_NUL_BYTES_H_
