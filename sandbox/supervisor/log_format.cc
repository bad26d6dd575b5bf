#include "sandbox/supervisor/log_format.h"

#include <algorithm>
#include <cstring>

namespace davit::sandbox {
namespace {

constexpr size_t kTagOffset = kLogPrefixSize - 2;

void PutDigits(char* at, int count, int64_t value) {
  for (int i = count - 1; i >= 0; --i, value /= 10) at[i] = static_cast<char>('0' + value % 10);
}

struct Date {
  int64_t year;
  int month, day;
};

// Days since 1970-01-01 to the proleptic Gregorian calendar, with years that start in March, so
// that the leap day comes last. gmtime_r would take a lock and read the environment.
Date CivilFromDays(int64_t days) {
  const int64_t shifted = days + 719468;  // since 0000-03-01
  const int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
  const int64_t day_of_era = shifted - era * 146097;
  const int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
  const int64_t day_of_year =
      day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const int64_t march_month = (5 * day_of_year + 2) / 153;
  Date date;
  date.day = static_cast<int>(day_of_year - (153 * march_month + 2) / 5 + 1);
  date.month = static_cast<int>(march_month < 10 ? march_month + 3 : march_month - 9);
  date.year = year_of_era + era * 400 + (date.month <= 2 ? 1 : 0);
  return date;
}

char* PutEntry(char* at, const LogPrefix& prefix, char tag, const char* content, size_t size) {
  memcpy(at, prefix.text, kLogPrefixSize);
  at[kTagOffset] = tag;
  memcpy(at + kLogPrefixSize, content, size);
  at[kLogPrefixSize + size] = '\n';
  return at + kLogPrefixSize + size + 1;
}

}  // namespace

void LogClock::Format(int64_t seconds, int32_t nanoseconds, char* out) {
  if (seconds != second_) {
    second_ = seconds;
    const int64_t days = seconds / 86400 - (seconds % 86400 < 0 ? 1 : 0);
    const int64_t rest = seconds - days * 86400;
    const Date date = CivilFromDays(days);
    memcpy(text_, "0000-00-00T00:00:00.", sizeof text_);
    PutDigits(text_, 4, date.year);
    PutDigits(text_ + 5, 2, date.month);
    PutDigits(text_ + 8, 2, date.day);
    PutDigits(text_ + 11, 2, rest / 3600);
    PutDigits(text_ + 14, 2, rest / 60 % 60);
    PutDigits(text_ + 17, 2, rest % 60);
  }
  memcpy(out, text_, sizeof text_);
  PutDigits(out + sizeof text_, 9, nanoseconds);
  out[kLogStampSize - 1] = 'Z';
}

LogPrefix MakeLogPrefix(const char* stamp, bool is_stderr) {
  LogPrefix prefix;
  memcpy(prefix.text, stamp, kLogStampSize);
  memcpy(prefix.text + kLogStampSize, is_stderr ? " stderr F " : " stdout F ", 10);
  return prefix;
}

LogFormatResult FormatLog(absl::string_view input, bool end_of_stream, const LogPrefix& prefix,
                          size_t max_line, char* out, size_t capacity) {
  const char* at = input.data();
  const char* const end = at + input.size();
  char* put = out;
  const char* const full = out + capacity;
  while (at != end) {
    const size_t left = static_cast<size_t>(end - at);
    // A line of max_line bytes may be followed by "\r\n".
    const size_t window = std::min(left, max_line + 2);
    const char* newline = static_cast<const char*>(memchr(at, '\n', window));
    size_t content, consumed;
    char tag = 'F';
    if (newline != nullptr) {
      consumed = static_cast<size_t>(newline - at) + 1;
      content = consumed - 1;
      if (content > 0 && at[content - 1] == '\r') --content;
      if (content > max_line) {  // one byte too long, and that byte is no '\r'
        content = consumed = max_line;
        tag = 'P';
      }
    } else {
      // Without its end, an entry can only be cut once its content is certain to be too long.
      const bool too_long = left > max_line + 1 || (left == max_line + 1 && at[max_line] != '\r');
      if (!too_long && !end_of_stream) break;
      content = consumed = std::min(left, max_line);
      tag = 'P';
    }
    if (static_cast<size_t>(full - put) < kLogPrefixSize + content + 1) break;
    put = PutEntry(put, prefix, tag, at, content);
    at += consumed;
  }
  return {static_cast<size_t>(at - input.data()), static_cast<size_t>(put - out)};
}

}  // namespace davit::sandbox
