#include "cri/signals.h"

#include <signal.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

constexpr int kRtMin = 34;
constexpr int kRtMax = 64;

constexpr struct {
  absl::string_view name;
  int number;
} kSignals[] = {
    {"ABRT", SIGABRT}, {"ALRM", SIGALRM}, {"BUS", SIGBUS},       {"CHLD", SIGCHLD},
    {"CLD", SIGCHLD},  {"CONT", SIGCONT}, {"FPE", SIGFPE},       {"HUP", SIGHUP},
    {"ILL", SIGILL},   {"INT", SIGINT},   {"IO", SIGIO},         {"IOT", SIGABRT},
    {"KILL", SIGKILL}, {"PIPE", SIGPIPE}, {"POLL", SIGIO},       {"PROF", SIGPROF},
    {"PWR", SIGPWR},   {"QUIT", SIGQUIT}, {"SEGV", SIGSEGV},     {"STKFLT", SIGSTKFLT},
    {"STOP", SIGSTOP}, {"SYS", SIGSYS},   {"TERM", SIGTERM},     {"TRAP", SIGTRAP},
    {"TSTP", SIGTSTP}, {"TTIN", SIGTTIN}, {"TTOU", SIGTTOU},     {"URG", SIGURG},
    {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"VTALRM", SIGVTALRM}, {"WINCH", SIGWINCH},
    {"XCPU", SIGXCPU}, {"XFSZ", SIGXFSZ}, {"RTMIN", kRtMin},     {"RTMAX", kRtMax},
};

}  // namespace

absl::StatusOr<int> ParseSignal(absl::string_view text) {
  const absl::Status unknown =
      absl::InvalidArgumentError(absl::StrCat("unknown signal \"", text.substr(0, 64), "\""));
  int number = 0;
  if (absl::SimpleAtoi(text, &number)) {
    if (number < 1 || number > kRtMax) return unknown;
    return number;
  }
  const std::string upper = absl::AsciiStrToUpper(text.substr(0, 64));
  const absl::string_view name = absl::StripPrefix(upper, "SIG");
  for (const auto& signal : kSignals) {
    if (name == signal.name) return signal.number;
  }
  const bool from_min = absl::StartsWith(name, "RTMIN+");
  if ((from_min || absl::StartsWith(name, "RTMAX-")) && absl::SimpleAtoi(name.substr(6), &number) &&
      number >= 0 && number <= kRtMax - kRtMin) {
    return from_min ? kRtMin + number : kRtMax - number;
  }
  return unknown;
}

std::optional<int> SignalFromCri(int value) {
  if (value == v1::SIGNAL_RUNTIME_DEFAULT || !v1::Signal_IsValid(value)) return std::nullopt;
  // SIGNAL_SIGRTMINPLUS3, SIGNAL_SIGRTMAXMINUS1
  const std::string name = absl::StrReplaceAll(absl::StripPrefix(v1::Signal_Name(value), "SIGNAL_"),
                                               {{"MINPLUS", "MIN+"}, {"MAXMINUS", "MAX-"}});
  const absl::StatusOr<int> number = ParseSignal(name);
  return number.ok() ? std::optional<int>(*number) : std::nullopt;
}

int SignalToCri(int number) {
  // Of two names for one number the one that comes first in signal(7)'s use: SIGCHLD, not SIGCLD.
  for (int value = v1::Signal_MIN; value <= v1::Signal_MAX; ++value) {
    if (SignalFromCri(value) == number) return value;
  }
  return v1::SIGNAL_RUNTIME_DEFAULT;
}

}  // namespace davit::cri
