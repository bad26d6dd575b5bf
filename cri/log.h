#ifndef DAVIT_CRI_LOG_H_
#define DAVIT_CRI_LOG_H_

#include <initializer_list>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The daemon's log: one line an event on stderr, `time level msg="..." key=value ...`. Values that
// hold spaces or anything unprintable are quoted and escaped, so that no pod name or image can
// forge a line. Thread-safe. Credentials and environments never go in here.
namespace davit::cri {

enum class LogLevel { kTrace, kDebug, kInfo, kWarn, kError };

// "trace", "debug", "info", "warn", "error".
absl::StatusOr<LogLevel> ParseLogLevel(absl::string_view name);

void InitLog(LogLevel level);
void SetLogLevel(LogLevel level);
bool LogEnabled(LogLevel level);

struct LogField {
  absl::string_view key;
  absl::string_view value;
};
void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

// `value`, quoted if need be.
std::string LogValue(absl::string_view value);

}  // namespace davit::cri

#endif  // DAVIT_CRI_LOG_H_
