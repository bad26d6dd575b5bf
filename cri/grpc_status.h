#ifndef DAVIT_CRI_GRPC_STATUS_H_
#define DAVIT_CRI_GRPC_STATUS_H_

#include <string>

#include "absl/status/status.h"

namespace davit::cri {

// What a failed call answers: the one place where a status becomes a gRPC code.
struct WireStatus {
  int code = 0;  // gRPC's numbers, which are absl's
  std::string message;
};

// The code is absl's, save that a message which begins with a prefix that the kubelet parses
// (cri-api pkg/errors: RegistryUnavailable, SignatureValidationFailed, RROUnsupported,
// ImageVolumeMountFailed) travels with code Unknown: its client shows only such messages bare.
// Messages beyond 4 KiB are cut: they travel in a header.
WireStatus ToWire(const absl::Status& status);

}  // namespace davit::cri

#endif  // DAVIT_CRI_GRPC_STATUS_H_
