#include "images/unpack/tar_parser.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "images/unpack/testing/tar_builder.h"

namespace davit::images::unpack {
namespace {

using testing::FixChecksum;
using testing::Header;
using testing::HeaderBlock;
using testing::TarBuilder;

struct Seen {
  TarEntry entry;
  std::string content;  // holes as NULs
};

class Collector : public TarVisitor {
 public:
  absl::Status OnEntry(const TarEntry& entry) override {
    seen.push_back({entry, std::string(std::min<uint64_t>(entry.size, 1 << 20), '\0')});
    return absl::OkStatus();
  }
  absl::Status OnData(uint64_t offset, absl::string_view data) override {
    seen.back().content.replace(offset, data.size(), data.data(), data.size());
    return absl::OkStatus();
  }
  absl::Status OnEntryEnd() override {
    ++ended;
    return absl::OkStatus();
  }
  std::vector<Seen> seen;
  size_t ended = 0;
};

// Parses in pieces of `piece` bytes.
absl::StatusOr<std::vector<Seen>> Parse(absl::string_view tar, size_t piece = 1 << 20) {
  Collector collector;
  TarParser parser(&collector);
  for (size_t at = 0; at < tar.size(); at += piece) {
    const absl::Status pushed = parser.Push(tar.substr(at, piece));
    if (!pushed.ok()) return pushed;
  }
  const absl::Status finished = parser.Finish();
  if (!finished.ok()) return finished;
  EXPECT_EQ(collector.ended, collector.seen.size());
  return collector.seen;
}

std::vector<Seen> MustParse(absl::string_view tar, size_t piece = 1 << 20) {
  auto seen = Parse(tar, piece);
  EXPECT_TRUE(seen.ok()) << seen.status();
  return seen.ok() ? *std::move(seen) : std::vector<Seen>();
}

TEST(TarParser, ReadsEveryTypeHoweverTheBytesAreCut) {
  const std::string tar = TarBuilder()
                              .Dir("d/", 01777)
                              .File("d/f", std::string(1000, 'x'), 04711)
                              .File("d/empty")
                              .Symlink("d/s", "/abs/target")
                              .HardLink("d/h", "d/f")
                              .Device("d/c", '3', 1, 3)
                              .Device("d/b", '4', 8, 1)
                              .Add({.name = "d/p", .type = '6', .mode = 0600})
                              .Add({.name = "d/7", .type = '7'}, "contiguous")
                              .Add({.name = "d/0", .type = '\0'}, "old")
                              .Finish();
  for (const size_t piece : {1, 7, 511, 512, 513, 1 << 20}) {
    const auto seen = MustParse(tar, piece);
    ASSERT_EQ(seen.size(), 10u);
    EXPECT_EQ(seen[0].entry.type, EntryType::kDirectory);
    EXPECT_EQ(seen[0].entry.mode, 01777u);
    EXPECT_EQ(seen[1].entry.mode, 04711u);
    EXPECT_EQ(seen[1].content, std::string(1000, 'x'));
    EXPECT_EQ(seen[2].entry.size, 0u);
    EXPECT_EQ(seen[3].entry.link, "/abs/target");
    EXPECT_EQ(seen[4].entry.type, EntryType::kHardLink);
    EXPECT_EQ(seen[4].entry.link, "d/f");
    EXPECT_EQ(seen[5].entry.major, 1u);
    EXPECT_EQ(seen[5].entry.minor, 3u);
    EXPECT_EQ(seen[6].entry.type, EntryType::kBlockDevice);
    EXPECT_EQ(seen[7].entry.type, EntryType::kFifo);
    EXPECT_EQ(seen[8].content, "contiguous");
    EXPECT_EQ(seen[9].content, "old");
  }
}

TEST(TarParser, TakesATrailingSlashForADirectoryAsV7Meant) {
  const auto seen = MustParse(TarBuilder()
                                  .Add({.name = "a/", .type = '\0', .magic = ""})
                                  .Add({.name = "b/", .type = '0'})
                                  .Finish());
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].entry.type, EntryType::kDirectory);
  EXPECT_EQ(seen[1].entry.type, EntryType::kDirectory);
}

TEST(TarParser, ReadsNoDataBehindTypesThatHaveNone) {
  const auto seen = MustParse(TarBuilder()
                                  .Add({.name = "h", .type = '1', .size = 4096, .link = "f"})
                                  .Add({.name = "d", .type = '5', .size = 512})
                                  .File("f", "data")
                                  .Finish());
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[2].content, "data");
}

TEST(TarParser, GnuLongNamesHoldForOneEntry) {
  const std::string name = absl::StrCat(std::string(200, 'n'), "/", std::string(200, 'm'));
  const std::string link(300, 'l');
  const auto seen = MustParse(
      TarBuilder().Long('L', name).Long('K', link).Symlink("x", "y").File("short").Finish(), 100);
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].entry.path, name);
  EXPECT_EQ(seen[0].entry.link, link);
  EXPECT_EQ(seen[1].entry.path, "short");
}

TEST(TarParser, PaxOverridesHoldForOneEntryAndGlobalOnesForNone) {
  const auto seen = MustParse(TarBuilder()
                                  .Pax({{"path", "global"}, {"mtime", "1"}}, 'g')
                                  .Pax({{"path", "päth"},
                                        {"uid", "3000000"},
                                        {"mtime", "-1.5"},
                                        {"SCHILY.xattr.user.a", "v"}})
                                  .File("x", "1")
                                  .File("y", "2")
                                  .Finish());
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].entry.path, "päth");
  EXPECT_EQ(seen[0].entry.uid, 3000000u);
  EXPECT_EQ(seen[0].entry.mtime.tv_sec, -2);
  ASSERT_EQ(seen[0].entry.xattrs.size(), 1u);
  EXPECT_EQ(seen[1].entry.path, "y");
  EXPECT_EQ(seen[1].entry.mtime.tv_sec, 1700000000);
  EXPECT_TRUE(seen[1].entry.xattrs.empty());
}

TEST(TarParser, PaxSizeReplacesTheHeaders) {
  std::string data(700, 'd');
  const auto seen = MustParse(TarBuilder()
                                  .Pax({{"size", "700"}})
                                  .Add({.name = "f", .size = 0}, data)
                                  .File("next", "n")
                                  .Finish());
  ASSERT_EQ(seen.size(), 2u);
  EXPECT_EQ(seen[0].content, data);
  EXPECT_EQ(seen[1].content, "n");
}

TEST(TarParser, IgnoresEverythingBehindTheEndMark) {
  const auto seen =
      MustParse(TarBuilder().File("f", "1").Finish() + "garbage" + std::string(5000, 'g'), 333);
  EXPECT_EQ(seen.size(), 1u);
}

TEST(TarParser, AcceptsAStreamWithoutEndMark) {
  EXPECT_EQ(MustParse(TarBuilder().File("f", "1").unfinished()).size(), 1u);
  EXPECT_EQ(MustParse(TarBuilder().File("f", "1").Raw(std::string(512, '\0')).unfinished()).size(),
            1u);
  EXPECT_EQ(MustParse("").size(), 0u);
}

TEST(TarParser, RefusesATruncatedStream) {
  const std::string tar = TarBuilder().Pax({{"mtime", "1"}}).File("f", "data").unfinished();
  for (const size_t size : {1, 100, 511, 513, 600, 1025, 1500, 1539}) {
    const auto seen = Parse(absl::string_view(tar).substr(0, size));
    EXPECT_TRUE(absl::IsDataLoss(seen.status())) << size << ": " << seen.status();
  }
}

TEST(TarParser, RefusesGarbageAndHalfEndMarks) {
  EXPECT_TRUE(absl::IsDataLoss(Parse(std::string(1024, 'x')).status()));
  EXPECT_TRUE(absl::IsDataLoss(
      Parse(TarBuilder().Raw(std::string(512, '\0')).File("f").Finish()).status()));
}

TEST(TarParser, RefusesUnknownTypes) {
  for (const char type : {'V', 'M', 'D', 'A', 'Z', '8', '\xff'}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(
        Parse(TarBuilder().Add({.name = "f", .type = type}).Finish()).status()));
  }
}

TEST(TarParser, RefusesOwnersOutOfRange) {
  for (const int64_t id : {int64_t{-1}, int64_t{0xffffffff}, int64_t{1} << 40}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(
        Parse(TarBuilder().Add({.name = "f", .uid = id}).Finish()).status()));
    EXPECT_TRUE(absl::IsFailedPrecondition(
        Parse(TarBuilder().Add({.name = "f", .gid = id}).Finish()).status()));
  }
  EXPECT_EQ(MustParse(TarBuilder().Add({.name = "f", .uid = 0xfffffffe}).Finish())[0].entry.uid,
            0xfffffffeu);
}

TEST(TarParser, RefusesDeviceNumbersOutOfRange) {
  EXPECT_FALSE(Parse(TarBuilder().Device("d", '3', 4096, 0).Finish()).ok());
  EXPECT_FALSE(Parse(TarBuilder().Device("d", '4', 1, 1 << 20).Finish()).ok());
}

TEST(TarParser, BoundsNamesAndExtensionHeaders) {
  EXPECT_FALSE(Parse(TarBuilder().Long('L', std::string(5000, 'n')).File("f").Finish()).ok());
  EXPECT_FALSE(
      Parse(TarBuilder().Long('K', std::string(5000, 'n')).Symlink("f", "t").Finish()).ok());
  // The size alone is enough: the payload is never collected.
  for (const char type : {'x', 'g', 'L', 'K'}) {
    const auto seen =
        Parse(TarBuilder().Add({.name = "huge", .type = type, .size = (1 << 20) + 1}).unfinished());
    EXPECT_TRUE(absl::IsFailedPrecondition(seen.status())) << seen.status();
  }
}

TEST(TarParser, RefusesEntriesWithoutNameOrTarget) {
  EXPECT_FALSE(Parse(TarBuilder().File("").Finish()).ok());
  EXPECT_FALSE(Parse(TarBuilder().Symlink("s", "").Finish()).ok());
  EXPECT_FALSE(Parse(TarBuilder().HardLink("h", "").Finish()).ok());
}

// A sparse file of 2,000 bytes: "abc" at 100 and "defg" at 1500.
std::string SparseContent() {
  std::string content(2000, '\0');
  content.replace(100, 3, "abc");
  content.replace(1500, 4, "defg");
  return content;
}

std::string OldGnuSparse(bool extended) {
  std::string block =
      HeaderBlock({.name = "s", .type = 'S', .magic = std::string("ustar  \0", 8)}, 7);
  auto put = [](std::string* into, size_t at, uint64_t value) {
    char text[13];
    snprintf(text, sizeof text, "%011llo", static_cast<unsigned long long>(value));
    into->replace(at, 11, text, 11);
  };
  std::string extension(512, '\0');
  put(&block, 386, 100);
  put(&block, 398, 3);
  std::string* second = extended ? &extension : &block;
  const size_t at = extended ? 0 : 410;
  put(second, at, 1500);
  put(second, at + 12, 4);
  put(&block, 483, 2000);
  if (extended) block[482] = 1;
  FixChecksum(&block);
  std::string data = "abcdefg";
  data.resize(512, '\0');
  return block + (extended ? extension : "") + data + TarBuilder().File("next", "n").Finish();
}

TEST(TarParser, ReadsSparseFilesOfAllFormats) {
  std::string map1 = "2\n100\n3\n1500\n4\n";
  map1.resize(512, '\0');
  const std::string kArchives[] = {
      OldGnuSparse(false),
      OldGnuSparse(true),
      TarBuilder()
          .Pax({{"GNU.sparse.size", "2000"},
                {"GNU.sparse.offset", "100"},
                {"GNU.sparse.numbytes", "3"},
                {"GNU.sparse.offset", "1500"},
                {"GNU.sparse.numbytes", "4"}})
          .File("s", "abcdefg")
          .File("next", "n")
          .Finish(),
      TarBuilder()
          .Pax({{"GNU.sparse.size", "2000"},
                {"GNU.sparse.map", "100,3,1500,4"},
                {"GNU.sparse.name", "s"}})
          .File("GNUSparseFile.1/s", "abcdefg")
          .File("next", "n")
          .Finish(),
      TarBuilder()
          .Pax({{"GNU.sparse.major", "1"},
                {"GNU.sparse.minor", "0"},
                {"GNU.sparse.realsize", "2000"},
                {"GNU.sparse.name", "s"}})
          .File("GNUSparseFile.1/s", map1 + "abcdefg")
          .File("next", "n")
          .Finish(),
  };
  for (const std::string& tar : kArchives) {
    for (const size_t piece : {1, 3, 512, 1 << 20}) {
      const auto seen = MustParse(tar, piece);
      ASSERT_EQ(seen.size(), 2u);
      EXPECT_EQ(seen[0].entry.path, "s");
      EXPECT_EQ(seen[0].entry.size, 2000u);
      EXPECT_EQ(seen[0].content, SparseContent());
      EXPECT_EQ(seen[1].content, "n");
    }
  }
}

TEST(TarParser, RefusesSparseMapsThatDoNotFit) {
  const char* kMaps[] = {"100,3",       "100,8",  "1500,4,100,3",
                         "100,4,102,3", "1999,7", "9223372036854775807,7"};
  for (const char* map : kMaps) {
    const auto seen = Parse(TarBuilder()
                                .Pax({{"GNU.sparse.size", "2000"}, {"GNU.sparse.map", map}})
                                .File("s", "abcdefg")
                                .Finish());
    EXPECT_TRUE(absl::IsDataLoss(seen.status())) << map << ": " << seen.status();
  }
  for (std::string map : {"x\n", "1\n100\n", "99999999\n", "1\n99999999999999999999999\n7\n", ""}) {
    map.resize(512, '\0');
    const auto seen = Parse(TarBuilder()
                                .Pax({{"GNU.sparse.major", "1"},
                                      {"GNU.sparse.minor", "0"},
                                      {"GNU.sparse.realsize", "2000"}})
                                .File("s", map + "abcdefg")
                                .Finish());
    EXPECT_FALSE(seen.ok()) << map;
  }
}

TEST(TarParser, StopsAtTheVisitorsError) {
  class Refuser : public Collector {
    absl::Status OnData(uint64_t, absl::string_view) override {
      return absl::ResourceExhaustedError("full");
    }
  };
  Refuser refuser;
  TarParser parser(&refuser);
  EXPECT_TRUE(absl::IsResourceExhausted(parser.Push(TarBuilder().File("f", "1").Finish())));
}

// No input, however mangled, may do worse than fail.
TEST(TarParser, SurvivesDamagedArchives) {
  const std::string good = TarBuilder()
                               .Long('L', std::string(150, 'a'))
                               .File("x", std::string(2000, 'x'))
                               .Pax({{"path", "p"}, {"GNU.sparse.map", "0,1"}})
                               .File("y", "y")
                               .Dir("d")
                               .Finish();
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string bad = good;
    for (int change = 0; change < 1 + round % 4; ++change) {
      bad[random() % bad.size()] = static_cast<char>(random());
    }
    if (round % 2 == 0) {  // past the checksum
      for (size_t at = 0; at + 512 <= bad.size(); at += 512) {
        std::string block = bad.substr(at, 512);
        if (block.substr(257, 5) != "ustar") continue;
        FixChecksum(&block);
        bad.replace(at, 512, block);
      }
    }
    (void)Parse(bad, 1 + random() % 700);
  }
}

}  // namespace
}  // namespace davit::images::unpack
