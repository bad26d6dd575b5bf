#include "sandbox/supervisor/state_format.h"

#include "absl/strings/str_cat.h"
#include "runtime/sys/version.h"

namespace davit::sandbox {

absl::StatusOr<upgrade::v1::SupervisorState> ParseState(absl::string_view bytes) {
  upgrade::v1::SupervisorState state;
  if (!state.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
      state.format_version() == 0) {
    return absl::DataLossError("the state of the supervisor cannot be read");
  }
  if (state.oldest_reader() > kStateFormat) {
    return absl::FailedPreconditionError(
        absl::StrCat("davit-pod ", sys::Version(), " reads states up to format ", kStateFormat,
                     "; that of the running davit-pod ", state.writer(), " needs format ",
                     state.oldest_reader()));
  }
  if (state.config().pod_dir().empty() || state.config().pod_dir()[0] != '/') {
    return absl::DataLossError("the state of the supervisor names no pod_dir");
  }
  return state;
}

}  // namespace davit::sandbox
