#include "images/unpack/pax.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "images/unpack/testing/tar_builder.h"

namespace davit::images::unpack {
namespace {

using testing::PaxRecord;

TEST(PaxTime, KeepsFractionAndSign) {
  const struct {
    const char* text;
    int64_t seconds;
    int64_t nanoseconds;
  } kCases[] = {
      {"0", 0, 0},
      {"1700000000", 1700000000, 0},
      {"1700000000.", 1700000000, 0},
      {"1.5", 1, 500000000},
      {"1.000000001", 1, 1},
      {"1.0000000019", 1, 1},
      {"-1", -1, 0},
      {"-1.5", -2, 500000000},
      {"-0.25", -1, 750000000},
      {"-1.000000000", -1, 0},
  };
  for (const auto& test : kCases) {
    const auto time = ParsePaxTime(test.text);
    ASSERT_TRUE(time.ok()) << test.text << ": " << time.status();
    EXPECT_EQ(time->tv_sec, test.seconds) << test.text;
    EXPECT_EQ(time->tv_nsec, test.nanoseconds) << test.text;
  }
  for (const char* text : {"", ".5", "x", "1.x", "--1", "1e9", "99999999999999999999"}) {
    EXPECT_FALSE(ParsePaxTime(text).ok()) << text;
  }
}

TEST(Pax, ReadsWhatOverridesTheHeader) {
  const auto pax = ParsePax(PaxRecord("path", "a\nb=c") + PaxRecord("linkpath", "t") +
                            PaxRecord("size", "8589934592") + PaxRecord("uid", "70000000") +
                            PaxRecord("gid", "1") + PaxRecord("mtime", "1.25") +
                            PaxRecord("comment", "ignored"));
  ASSERT_TRUE(pax.ok()) << pax.status();
  EXPECT_EQ(*pax->path, "a\nb=c");
  EXPECT_EQ(*pax->link_path, "t");
  EXPECT_EQ(*pax->size, 8589934592);
  EXPECT_EQ(*pax->uid, 70000000);
  EXPECT_EQ(*pax->gid, 1);
  EXPECT_EQ(pax->mtime->tv_nsec, 250000000);
}

TEST(Pax, AnEmptyValueLeavesTheHeadersField) {
  EXPECT_FALSE(ParsePax(PaxRecord("path", ""))->path.has_value());
}

TEST(Pax, ReadsXattrsInBothForms) {
  const std::string value("\0\x01\xff", 3);
  const auto pax =
      ParsePax(PaxRecord("SCHILY.xattr.user.raw", value) +
               PaxRecord("LIBARCHIVE.xattr.user.per%25cent", "AAH/") +
               PaxRecord("LIBARCHIVE.xattr.user.raw", "AAH/") + PaxRecord("SCHILY.xattr.e", ""));
  ASSERT_TRUE(pax.ok()) << pax.status();
  ASSERT_EQ(pax->xattrs.size(), 3u);
  EXPECT_EQ(pax->xattrs[0].first, "user.raw");
  EXPECT_EQ(pax->xattrs[0].second, value);
  EXPECT_EQ(pax->xattrs[1].first, "user.per%cent");
  EXPECT_EQ(pax->xattrs[1].second, value);
  EXPECT_EQ(pax->xattrs[2].first, "e");
}

TEST(Pax, RefusesMalformedRecords) {
  for (const char* text : {"x", "5 a=b", "6 a=b\n\n", "7 a=b\n", "0 a=b\n", "5 =bc\n", "6 abc\n",
                           "-6 a=b\n", " 6 a=b\n", "99999999999 a=b\n", "6a=b\n"}) {
    EXPECT_TRUE(absl::IsDataLoss(ParsePax(text).status())) << text;
  }
  EXPECT_FALSE(ParsePax(PaxRecord("path", std::string("a\0b", 3))).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("size", "1x")).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("uid", " 1")).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("LIBARCHIVE.xattr.user.a", "***")).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("SCHILY.xattr.", "v")).ok());
}

TEST(Pax, BoundsTheNumberOfXattrs) {
  std::string data;
  for (int i = 0; i < 1025; ++i) data += PaxRecord(absl::StrCat("SCHILY.xattr.user.", i), "v");
  EXPECT_FALSE(ParsePax(data).ok());
}

TEST(Pax, ReadsSparseMapsOfBothOldForms) {
  const auto v00 =
      ParsePax(PaxRecord("GNU.sparse.size", "100") + PaxRecord("GNU.sparse.numblocks", "2") +
               PaxRecord("GNU.sparse.offset", "10") + PaxRecord("GNU.sparse.numbytes", "5") +
               PaxRecord("GNU.sparse.offset", "50") + PaxRecord("GNU.sparse.numbytes", "6"));
  const auto v01 =
      ParsePax(PaxRecord("GNU.sparse.size", "100") + PaxRecord("GNU.sparse.map", "10,5,50,6") +
               PaxRecord("GNU.sparse.name", "real"));
  ASSERT_TRUE(v00.ok()) << v00.status();
  ASSERT_TRUE(v01.ok()) << v01.status();
  for (const auto* pax : {&*v00, &*v01}) {
    EXPECT_EQ(*pax->sparse_size, 100);
    ASSERT_EQ(pax->sparse_map.size(), 2u);
    EXPECT_EQ(pax->sparse_map[1].offset, 50u);
    EXPECT_EQ(pax->sparse_map[1].length, 6u);
  }
  EXPECT_EQ(*v01->sparse_name, "real");
}

TEST(Pax, RefusesBrokenSparseMaps) {
  EXPECT_FALSE(ParsePax(PaxRecord("GNU.sparse.map", "1")).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("GNU.sparse.map", "1,2,3")).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("GNU.sparse.map", "-1,2")).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("GNU.sparse.offset", "1")).ok());
  EXPECT_FALSE(ParsePax(PaxRecord("GNU.sparse.numbytes", "1")).ok());
}

}  // namespace
}  // namespace davit::images::unpack
