#include "sandbox/ids.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace davit::sandbox {

std::string NewId() {
  char bytes[32];
  size_t filled = 0;
  while (filled < sizeof bytes) {
    const ssize_t n = getrandom(bytes + filled, sizeof bytes - filled, 0);
    if (n > 0) filled += static_cast<size_t>(n);
    // Only EINTR is possible once the machine's pool is filled, which it is before any daemon runs.
    if (n < 0 && errno != EINTR) abort();
  }
  return absl::BytesToHexString(absl::string_view(bytes, sizeof bytes));
}

bool IsId(absl::string_view text) {
  if (text.size() != 64) return false;
  for (const char c : text) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

}  // namespace davit::sandbox
