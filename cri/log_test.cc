#include "cri/log.h"

#include "gtest/gtest.h"

namespace davit::cri {
namespace {

TEST(LogTest, PlainValuesStayAsTheyAreAndOthersAreQuoted) {
  EXPECT_EQ(LogValue("abc/def:1"), "abc/def:1");
  EXPECT_EQ(LogValue(""), "\"\"");
  EXPECT_EQ(LogValue("two words"), "\"two words\"");
  EXPECT_EQ(LogValue("a=b"), "\"a=b\"");
  EXPECT_EQ(LogValue("it's \xc3\xa4"), "\"it's \xc3\xa4\"");
  EXPECT_EQ(LogValue("bell\x07"), "\"bell\\x07\"");
}

TEST(LogTest, AValueCannotForgeALineOrAField) {
  EXPECT_EQ(LogValue("x\ntime=now level=error"), "\"x\\ntime=now level=error\"");
  EXPECT_EQ(LogValue("quote\" level=error"), "\"quote\\\" level=error\"");
}

TEST(LogTest, LevelsAreParsedAndAWrongOneNamesTheChoices) {
  ASSERT_TRUE(ParseLogLevel("warn").ok());
  EXPECT_EQ(*ParseLogLevel("warn"), LogLevel::kWarn);
  const auto wrong = ParseLogLevel("loud");
  ASSERT_FALSE(wrong.ok());
  EXPECT_NE(wrong.status().message().find("\"debug\""), absl::string_view::npos);
}

TEST(LogTest, TheLevelDecidesWhatIsWritten) {
  InitLog(LogLevel::kWarn);
  testing::internal::CaptureStderr();
  Log(LogLevel::kInfo, "quiet");
  Log(LogLevel::kError, "something failed", {{"pod", "a b"}, {"code", "7"}});
  SetLogLevel(LogLevel::kDebug);
  Log(LogLevel::kDebug, "now heard");
  const std::string out = testing::internal::GetCapturedStderr();
  EXPECT_EQ(out.find("quiet"), std::string::npos);
  EXPECT_NE(out.find("level=error msg=\"something failed\" pod=\"a b\" code=7\n"),
            std::string::npos);
  EXPECT_NE(out.find("msg=\"now heard\""), std::string::npos);
}

}  // namespace
}  // namespace davit::cri
