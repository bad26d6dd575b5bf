#ifndef DAVIT_SANDBOX_SUPERVISOR_LOG_FORMAT_H_
#define DAVIT_SANDBOX_SUPERVISOR_LOG_FORMAT_H_

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

// The CRI log format: "<RFC3339Nano, UTC> <stdout|stderr> <F|P> <content>\n". F ends a line of the
// application, P says that the line goes on in the next entry of the same stream. Pure: no
// allocation, no system call.
namespace davit::sandbox {

// "2016-10-06T00:17:09.669794202Z stdout F ": what every entry starts with.
inline constexpr size_t kLogStampSize = 30;
inline constexpr size_t kLogPrefixSize = kLogStampSize + 10;

// Formats times, with the day worked out once a second only. Not thread-safe.
class LogClock {
 public:
  // Writes the kLogStampSize characters of a time since the epoch, always with nine decimals, so
  // that stamps sort as text.
  void Format(int64_t seconds, int32_t nanoseconds, char* out);

 private:
  int64_t second_ = INT64_MIN;
  char text_[20];  // "2016-10-06T00:17:09."
};

struct LogPrefix {
  char text[kLogPrefixSize];  // of an F entry
};
LogPrefix MakeLogPrefix(const char* stamp, bool is_stderr);

struct LogFormatResult {
  size_t consumed = 0;
  size_t produced = 0;
};

// Formats what `input` holds of whole lines into `out`, as many as fit into `capacity`, which is at
// least kLogPrefixSize + max_line + 1. "\r\n" ends a line as "\n" does. Content longer than
// `max_line` is cut into P entries of that size and a last one. At the end of the stream
// (`end_of_stream`) an unfinished line becomes a P entry; else it stays unconsumed: at most
// max_line + 1 bytes once nothing more fits the description above.
LogFormatResult FormatLog(absl::string_view input, bool end_of_stream, const LogPrefix& prefix,
                          size_t max_line, char* out, size_t capacity);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_LOG_FORMAT_H_
