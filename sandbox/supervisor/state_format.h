#ifndef DAVIT_SANDBOX_SUPERVISOR_STATE_FORMAT_H_
#define DAVIT_SANDBOX_SUPERVISOR_STATE_FORMAT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/upgrade.pb.h"

// The format of proto/upgrade.proto, which says when these numbers grow.
namespace davit::sandbox {

inline constexpr uint32_t kStateFormat = 1;
// What a reader has to know of a state that uses nothing newer than this.
inline constexpr uint32_t kOldestStateReader = 1;

// FailedPrecondition, with both versions, for a state that needs a newer reader; DataLoss for what
// is no state.
absl::StatusOr<upgrade::v1::SupervisorState> ParseState(absl::string_view bytes);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_STATE_FORMAT_H_
