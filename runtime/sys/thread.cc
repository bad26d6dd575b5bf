#include "runtime/sys/thread.h"

#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace davit::sys {

absl::StatusOr<std::thread> StartThread(std::function<void()> body) {
  try {
    return std::thread(std::move(body));
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(
        absl::StrCat("start a thread: ", error.what(),
                     "; raise davitd's TasksMax or pids limit, or free memory"));
  }
}

}  // namespace davit::sys
