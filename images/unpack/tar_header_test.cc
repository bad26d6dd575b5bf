#include "images/unpack/tar_header.h"

#include <gtest/gtest.h>

#include <string>

#include "images/unpack/testing/tar_builder.h"

namespace davit::images::unpack {
namespace {

using testing::FixChecksum;
using testing::Header;
using testing::HeaderBlock;

TEST(TarNumber, ReadsOctalWithAnyPadding) {
  EXPECT_EQ(*ParseTarNumber(absl::string_view("0000644\0", 8)), 0644);
  EXPECT_EQ(*ParseTarNumber("   644 "), 0644);
  EXPECT_EQ(*ParseTarNumber(absl::string_view("644\0junk", 8)), 0644);
  EXPECT_EQ(*ParseTarNumber(absl::string_view("\0\0\0\0", 4)), 0);
  EXPECT_EQ(*ParseTarNumber("        "), 0);
  EXPECT_EQ(*ParseTarNumber("777777777777"), (int64_t{1} << 36) - 1);
}

TEST(TarNumber, RefusesWhatIsNotOctal) {
  for (const char* text : {"0000689", "-1", "12x", "0x10", "1 2"}) {
    EXPECT_TRUE(absl::IsDataLoss(ParseTarNumber(text).status())) << text;
  }
}

TEST(TarNumber, ReadsBase256WithItsSign) {
  EXPECT_EQ(*ParseTarNumber(absl::string_view("\x80\0\0\0\0\0\x01\x02", 8)), 258);
  EXPECT_EQ(*ParseTarNumber("\xff\xff\xff\xff\xff\xff\xff\xff"), -1);
  EXPECT_EQ(*ParseTarNumber("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"), -2);
  EXPECT_EQ(*ParseTarNumber(absl::string_view("\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12)),
            INT64_MAX);
}

TEST(TarNumber, RefusesBase256BeyondSixtyThreeBits) {
  EXPECT_FALSE(ParseTarNumber(absl::string_view("\x80\0\0\x01\0\0\0\0\0\0\0\0", 12)).ok());
  EXPECT_FALSE(ParseTarNumber(absl::string_view("\x80\0\0\0\x80\0\0\0\0\0\0\0", 12)).ok());
}

TEST(TarHeader, ReadsEveryField) {
  const auto header = ParseTarHeader(HeaderBlock({.name = "dir/file",
                                                  .type = '3',
                                                  .mode = 04755,
                                                  .uid = 1000,
                                                  .gid = 65534,
                                                  .size = 0,
                                                  .mtime = 12345,
                                                  .link = "target",
                                                  .major = 5,
                                                  .minor = 300},
                                                 0));
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->dialect, TarDialect::kUstar);
  EXPECT_EQ(header->name, "dir/file");
  EXPECT_EQ(header->link, "target");
  EXPECT_EQ(header->type, '3');
  EXPECT_EQ(header->mode, 04755);
  EXPECT_EQ(header->uid, 1000);
  EXPECT_EQ(header->gid, 65534);
  EXPECT_EQ(header->mtime, 12345);
  EXPECT_EQ(header->major, 5);
  EXPECT_EQ(header->minor, 300);
}

TEST(TarHeader, JoinsTheUstarPrefix) {
  const auto header = ParseTarHeader(HeaderBlock({.name = "file", .prefix = "a/long/prefix"}, 0));
  EXPECT_EQ(header->name, "a/long/prefix/file");
}

TEST(TarHeader, TakesAFieldThatFillsItsWidth) {
  const std::string name(100, 'n');
  EXPECT_EQ(ParseTarHeader(HeaderBlock({.name = name}, 0))->name, name);
}

TEST(TarHeader, KnowsV7AndTakesNoPrefixFromIt) {
  std::string block = HeaderBlock({.name = "old", .magic = std::string(8, '\0')}, 0);
  block.replace(345, 4, "junk");
  FixChecksum(&block);
  const auto header = ParseTarHeader(block);
  ASSERT_TRUE(header.ok()) << header.status();
  EXPECT_EQ(header->dialect, TarDialect::kV7);
  EXPECT_EQ(header->name, "old");
}

TEST(TarHeader, TakesNoPrefixFromGnuTimes) {
  std::string block = HeaderBlock({.name = "f", .magic = std::string("ustar  \0", 8)}, 0);
  block.replace(345, 12, "14371622277 ");
  block.replace(357, 12, "14371622277 ");
  FixChecksum(&block);
  EXPECT_EQ(ParseTarHeader(block)->name, "f");
}

TEST(TarHeader, TakesThePrefixThatOldGoWritersPutIntoGnuHeaders) {
  const auto header = ParseTarHeader(HeaderBlock(
      {.name = "file", .magic = std::string("ustar  \0", 8), .prefix = "usr/share/doc"}, 0));
  EXPECT_EQ(header->name, "usr/share/doc/file");
}

TEST(TarHeader, AcceptsChecksumsOfSignedBytes) {
  std::string block = HeaderBlock({.name = "na\xc3\xafve"}, 0);
  int sum = 0;
  block.replace(148, 8, 8, ' ');
  for (const char c : block) sum += static_cast<signed char>(c);
  char text[8];
  snprintf(text, sizeof text, "%06o", static_cast<unsigned>(sum));
  block.replace(148, 7, text, 7);
  EXPECT_TRUE(ParseTarHeader(block).ok());
}

TEST(TarHeader, RefusesAWrongChecksum) {
  std::string block = HeaderBlock({.name = "file"}, 0);
  block[0] = 'F';
  EXPECT_TRUE(absl::IsDataLoss(ParseTarHeader(block).status()));
}

TEST(TarHeader, RefusesANegativeSize) {
  std::string block = HeaderBlock({.name = "file"}, 0);
  block.replace(124, 12, 12, '\xff');
  FixChecksum(&block);
  EXPECT_TRUE(absl::IsDataLoss(ParseTarHeader(block).status()));
}

}  // namespace
}  // namespace davit::images::unpack
