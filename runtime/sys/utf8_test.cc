#include "runtime/sys/utf8.h"

#include "gtest/gtest.h"

namespace davit::sys {
namespace {

TEST(Utf8Test, ValidTextStaysAsItIs) {
  for (const char* text :
       {"", "plain", "Grüße", "日本語", "\xf0\x9f\x90\xb3", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(ValidUtf8(text), text);
  }
  EXPECT_EQ(ValidUtf8(absl::string_view("a\0b", 3)), std::string("a\0b", 3));
}

TEST(Utf8Test, BytesOutsideOfSequencesAreReplaced) {
  EXPECT_EQ(ValidUtf8("a\xff"
                      "b"),
            "a\xef\xbf\xbd"
            "b");
  EXPECT_EQ(ValidUtf8("\x80"), "\xef\xbf\xbd");
  EXPECT_EQ(ValidUtf8("gr\xc3"), "gr\xef\xbf\xbd") << "cut short";
  EXPECT_EQ(ValidUtf8("\xc0\xaf"), "\xef\xbf\xbd\xef\xbf\xbd") << "overlong";
  EXPECT_EQ(ValidUtf8("\xe0\x80\xaf"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd") << "overlong";
  EXPECT_EQ(ValidUtf8("\xed\xa0\x80").size(), 9u) << "a surrogate";
  EXPECT_EQ(ValidUtf8("\xf4\x90\x80\x80").size(), 12u) << "beyond U+10FFFF";
}

TEST(Utf8Test, TruncationCutsNoSequence) {
  EXPECT_EQ(TruncateUtf8("short", 10), "short");
  EXPECT_EQ(TruncateUtf8("abcdef", 3), "abc");
  EXPECT_EQ(TruncateUtf8("gr\xc3\xbc\xc3\x9f", 3), "gr");
  EXPECT_EQ(TruncateUtf8("gr\xc3\xbc\xc3\x9f", 4), "gr\xc3\xbc");
  EXPECT_EQ(TruncateUtf8("\xf0\x9f\x90\xb3", 3), "");
  EXPECT_EQ(TruncateUtf8("abc", 0), "");
}

}  // namespace
}  // namespace davit::sys
