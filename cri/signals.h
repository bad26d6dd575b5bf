#ifndef DAVIT_CRI_SIGNALS_H_
#define DAVIT_CRI_SIGNALS_H_

#include <optional>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace davit::cri {

// The Linux number of a signal by name ("SIGTERM", "TERM", "SIGRTMIN+3", "SIGRTMAX-1", any case) or
// number ("15"), as images give their stop signal. SIGRTMIN is 34, since libc keeps two for itself.
// InvalidArgument for anything else.
absl::StatusOr<int> ParseSignal(absl::string_view text);

// CRI's Signal enumeration has numbers of its own, so it is translated by name. `value` is the
// enumerator's number; empty for SIGNAL_RUNTIME_DEFAULT and for numbers that CRI does not know.
std::optional<int> SignalFromCri(int value);
// The CRI enumerator's number for a Linux number; 0 (SIGNAL_RUNTIME_DEFAULT) if there is none.
int SignalToCri(int number);

}  // namespace davit::cri

#endif  // DAVIT_CRI_SIGNALS_H_
