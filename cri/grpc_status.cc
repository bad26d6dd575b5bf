#include "cri/grpc_status.h"

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "runtime/sys/utf8.h"

namespace davit::cri {
namespace {

constexpr size_t kMaxMessage = 4096;
constexpr absl::string_view kParsedByKubelet[] = {
    "RegistryUnavailable", "SignatureValidationFailed", "RROUnsupported", "ImageVolumeMountFailed"};

}  // namespace

WireStatus ToWire(const absl::Status& status) {
  WireStatus wire;
  wire.code = static_cast<int>(status.code());
  absl::string_view message(status.message().data(), status.message().size());
  for (const absl::string_view prefix : kParsedByKubelet) {
    if (absl::StartsWith(message, prefix)) wire.code = static_cast<int>(absl::StatusCode::kUnknown);
  }
  wire.message = std::string(sys::TruncateUtf8(sys::ValidUtf8(message), kMaxMessage));
  return wire;
}

}  // namespace davit::cri
