#include "sandbox/supervisor/log_format.h"

#include <string>

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

constexpr char kStamp[] = "2016-10-06T00:17:09.669794202Z";
const std::string kOut = std::string(kStamp) + " stdout ";

std::string Stamp(int64_t seconds, int32_t nanoseconds) {
  LogClock clock;
  char text[kLogStampSize];
  clock.Format(seconds, nanoseconds, text);
  return std::string(text, sizeof text);
}

struct Formatted {
  std::string text;
  size_t consumed;
};

Formatted Format(const std::string& input, bool end = false, size_t max_line = 16384,
                 bool is_stderr = false) {
  std::string out(input.size() * 64 + 64 + max_line, '?');
  const LogFormatResult result =
      FormatLog(input, end, MakeLogPrefix(kStamp, is_stderr), max_line, out.data(), out.size());
  out.resize(result.produced);
  return {out, result.consumed};
}

TEST(LogClockTest, WritesUtcWithNineDecimals) {
  EXPECT_EQ(Stamp(1475713029, 669794202), kStamp);
  EXPECT_EQ(Stamp(0, 0), "1970-01-01T00:00:00.000000000Z");
  EXPECT_EQ(Stamp(951782400, 5), "2000-02-29T00:00:00.000000005Z");
  EXPECT_EQ(Stamp(951868799, 999999999), "2000-02-29T23:59:59.999999999Z");
  EXPECT_EQ(Stamp(951868800, 0), "2000-03-01T00:00:00.000000000Z");
  EXPECT_EQ(Stamp(4107542399, 0), "2100-02-28T23:59:59.000000000Z");
  EXPECT_EQ(Stamp(4107542400, 0), "2100-03-01T00:00:00.000000000Z");
  EXPECT_EQ(Stamp(-1, 0), "1969-12-31T23:59:59.000000000Z");
}

TEST(LogClockTest, AgreesWithTheCLibraryOverFourCenturies) {
  LogClock clock;
  for (int64_t t = 0; t < int64_t{400} * 366 * 86400; t += 86400 * 13 + 3607) {
    char text[kLogStampSize], expected[64];
    clock.Format(t, 0, text);
    const time_t seconds = t;
    tm parts;
    gmtime_r(&seconds, &parts);
    strftime(expected, sizeof expected, "%Y-%m-%dT%H:%M:%S.000000000Z", &parts);
    ASSERT_EQ(std::string(text, sizeof text), expected);
  }
}

TEST(LogFormatTest, EveryLineBecomesAFullEntry) {
  const Formatted f = Format("one\ntwo\n\n");
  EXPECT_EQ(f.text, kOut + "F one\n" + kOut + "F two\n" + kOut + "F \n");
  EXPECT_EQ(f.consumed, 9u);
}

TEST(LogFormatTest, NamesTheStream) {
  EXPECT_EQ(Format("e\n", false, 16384, true).text, std::string(kStamp) + " stderr F e\n");
}

TEST(LogFormatTest, AnUnfinishedLineWaitsForItsEnd) {
  const Formatted f = Format("one\ntw");
  EXPECT_EQ(f.text, kOut + "F one\n");
  EXPECT_EQ(f.consumed, 4u);
}

TEST(LogFormatTest, AnUnfinishedLineAtTheEndIsPartial) {
  EXPECT_EQ(Format("one\ntw", true).text, kOut + "F one\n" + kOut + "P tw\n");
  EXPECT_EQ(Format("", true).text, "");
}

TEST(LogFormatTest, CarriageReturnsBeforeTheNewlineAreStrippedOnce) {
  EXPECT_EQ(Format("a\r\n\r\nb\rc\nd\r\r\n").text,
            kOut + "F a\n" + kOut + "F \n" + kOut + "F b\rc\n" + kOut + "F d\r\n");
}

TEST(LogFormatTest, BytesThatAreNoTextPassThrough) {
  EXPECT_EQ(Format(std::string("\0\xff\n", 3)).text, kOut + "F " + std::string("\0\xff\n", 3));
}

TEST(LogFormatTest, AnEntryHoldsAtMostTheLimit) {
  const std::string a(16384, 'a');
  EXPECT_EQ(Format(a + "\n").text, kOut + "F " + a + "\n");
  EXPECT_EQ(Format(a + "\r\n").text, kOut + "F " + a + "\n");
  EXPECT_EQ(Format(a + "b\n").text, kOut + "P " + a + "\n" + kOut + "F b\n");
  EXPECT_EQ(Format(a + "\rb\n").text, kOut + "P " + a + "\n" + kOut + "F \rb\n");
  EXPECT_EQ(Format(a + a + "\n").text, kOut + "P " + a + "\n" + kOut + "F " + a + "\n");
}

TEST(LogFormatTest, ACutWaitsUntilTheLineIsCertainlyTooLong) {
  EXPECT_EQ(Format("abcd", false, 4).consumed, 0u);
  EXPECT_EQ(Format("abcd\r", false, 4).consumed, 0u);
  EXPECT_EQ(Format("abcde", false, 4).text, kOut + "P abcd\n");
  EXPECT_EQ(Format("abcd\re", false, 4).text, kOut + "P abcd\n");
}

TEST(LogFormatTest, AtTheEndOverlongTailsAreCutToo) {
  EXPECT_EQ(Format("abcd\r", true, 4).text, kOut + "P abcd\n" + kOut + "P \r\n");
  EXPECT_EQ(Format("abcdefghi", true, 4).text,
            kOut + "P abcd\n" + kOut + "P efgh\n" + kOut + "P i\n");
}

TEST(LogFormatTest, StopsAtAnEntryBoundaryWhenTheOutputIsFull) {
  char out[kLogPrefixSize * 2 + 6];
  const LogPrefix prefix = MakeLogPrefix(kStamp, false);
  const LogFormatResult result = FormatLog("one\ntwo\n", false, prefix, 3, out, sizeof out);
  EXPECT_EQ(result.consumed, 4u);
  EXPECT_EQ(std::string(out, result.produced), kOut + "F one\n");
}

// Whatever pieces a stream arrives in, with the rest carried over, the log is the same.
TEST(LogFormatTest, TheResultDoesNotDependOnHowTheInputIsCut) {
  std::string input;
  unsigned seed = 1;
  for (int i = 0; i < 3000; ++i) {
    seed = seed * 1103515245 + 12345;
    input += "ab\r\n"[(seed >> 16) % 4];
  }
  const size_t max_line = 5;
  const std::string whole = Format(input, true, max_line).text;
  for (size_t piece = 1; piece < 40; ++piece) {
    std::string carried, text;
    for (size_t at = 0; at < input.size(); at += piece) {
      carried += input.substr(at, piece);
      const Formatted f = Format(carried, false, max_line);
      text += f.text;
      carried.erase(0, f.consumed);
      ASSERT_LE(carried.size(), max_line + 1);
    }
    text += Format(carried, true, max_line).text;
    ASSERT_EQ(text, whole) << piece;
  }
}

}  // namespace
}  // namespace davit::sandbox
