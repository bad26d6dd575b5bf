#include "images/unpack/layer_writer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <map>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "images/unpack/testing/tar_builder.h"
#include "images/unpack/testing/tree_listing.h"
#include "runtime/sys/file.h"

namespace davit::images::unpack {
namespace {

using testing::ListTree;
using testing::TarBuilder;
using testing::TempDir;
using Record = PendingRecords::Record;

std::string Show(const Record& record) {
  std::string line = absl::StrCat(Record::Kind_Name(record.kind()), " ", record.path());
  if (!record.target().empty()) absl::StrAppend(&line, " -> ", record.target());
  if (record.device_major() != 0 || record.device_minor() != 0) {
    absl::StrAppend(&line, " ", record.device_major(), ":", record.device_minor());
  }
  if (!record.name().empty()) absl::StrAppend(&line, " ", record.name(), "=", record.value());
  return line;
}

class LayerWriterTest : public ::testing::Test {
 protected:
  LayerWriterTest() { old_umask_ = umask(0); }
  ~LayerWriterTest() override { umask(old_umask_); }

  absl::StatusOr<std::vector<std::string>> Write(const std::string& tar) {
    writer_ = std::make_unique<LayerWriter>(dir_.Open(), limits_, lowest_);
    TarParser parser(writer_.get());
    if (absl::Status pushed = parser.Push(tar); !pushed.ok()) return pushed;
    if (absl::Status finished = parser.Finish(); !finished.ok()) return finished;
    auto records = writer_->Finish();
    if (!records.ok()) return records.status();
    std::vector<std::string> lines;
    for (const Record& record : *records) lines.push_back(Show(record));
    return lines;
  }

  std::vector<std::string> MustWrite(const TarBuilder& tar) {
    auto records = Write(tar.Finish());
    EXPECT_TRUE(records.ok()) << records.status();
    return records.ok() ? *records : std::vector<std::string>{"failed"};
  }

  void ExpectRefused(const TarBuilder& tar, absl::string_view reason) {
    const auto records = Write(tar.Finish());
    EXPECT_TRUE(absl::IsFailedPrecondition(records.status())) << records.status();
    EXPECT_TRUE(absl::StrContains(records.status().message(), reason)) << records.status();
  }

  std::string Read(const std::string& name) {
    const auto data = sys::ReadFileAt(AT_FDCWD, dir_ / name, 1 << 20);
    return data.ok() ? *data : std::string(data.status().message());
  }
  struct stat Stat(const std::string& name) {
    struct stat st {};
    EXPECT_EQ(lstat((dir_ / name).c_str(), &st), 0) << name;
    return st;
  }
  bool Exists(const std::string& name) {
    struct stat st;
    return lstat((dir_ / name).c_str(), &st) == 0;
  }

  TempDir dir_;
  Limits limits_;
  bool lowest_ = false;
  std::unique_ptr<LayerWriter> writer_;
  mode_t old_umask_;
};

using Lines = std::vector<std::string>;

TEST_F(LayerWriterTest, SetsOwnerModeAndTimesOfEveryType) {
  EXPECT_EQ(
      MustWrite(
          TarBuilder()
              .Add({.name = "d", .type = '5', .mode = 02750, .uid = 7, .gid = 8, .mtime = 5})
              .Add({.name = "d/f", .mode = 06711, .uid = 1000, .gid = 2, .mtime = 6}, "x")
              .Add({.name = "d/z", .mode = 0, .mtime = 9})
              .Add({.name = "d/s", .type = '2', .uid = 3, .gid = 4, .mtime = 7, .link = "/nowhere"})
              .Add({.name = "d/p", .type = '6', .mode = 0622, .uid = 5, .mtime = 8})
              .Add({.name = "d/sub", .type = '5', .mode = 01777, .mtime = 10})),
      Lines{});
  const auto listing = ListTree(dir_.path());
  EXPECT_EQ(listing.at("d"), "042750 7:8 5.000000000");
  EXPECT_TRUE(absl::StartsWith(listing.at("d/f"), "106711 1000:2 6.000000000 1 "))
      << listing.at("d/f");
  EXPECT_TRUE(absl::StartsWith(listing.at("d/z"), "100000 0:0 9.000000000 0 "))
      << listing.at("d/z");
  EXPECT_EQ(listing.at("d/s"), "120777 3:4 7.000000000 -> /nowhere");
  EXPECT_EQ(listing.at("d/p"), "010622 5:0 8.000000000");
  // Not the group of its set-group-ID parent.
  EXPECT_EQ(listing.at("d/sub"), "041777 0:0 10.000000000");
}

TEST_F(LayerWriterTest, AppliesTheRootEntryToTheTopDirectory) {
  MustWrite(TarBuilder().File("f").Add(
      {.name = "./", .type = '5', .mode = 0700, .uid = 9, .gid = 9, .mtime = 77}));
  EXPECT_TRUE(writer_->has_root_entry());
  EXPECT_EQ(ListTree(dir_.path()).at(""), "040700 9:9 77.000000000");
}

TEST_F(LayerWriterTest, OfDuplicatesTheLastHoldsAndDirectoriesMerge) {
  MustWrite(TarBuilder()
                .File("f", "old", 0600)
                .File("f", "new", 0644)
                .Dir("d", 0700)
                .File("d/kept", "k")
                .Dir("d", 0711)
                .File("x", "file")
                .Dir("x")
                .File("x/in", "i")
                .Dir("y")
                .File("y/gone", "g")
                .File("y", "file now")
                .Symlink("s", "a")
                .Symlink("s", "b")
                .Add({.name = "p", .type = '6'})
                .File("p", "p"));
  EXPECT_EQ(Read("f"), "new");
  EXPECT_EQ(Stat("f").st_mode & 07777u, 0644u);
  EXPECT_EQ(Read("d/kept"), "k");
  EXPECT_EQ(Stat("d").st_mode & 07777u, 0711u);
  EXPECT_EQ(Read("x/in"), "i");
  EXPECT_EQ(Read("y"), "file now");
  EXPECT_EQ(Read("p"), "p");
}

TEST_F(LayerWriterTest, ReplacingAHardLinkedFileLeavesItsOtherNamesAlone) {
  MustWrite(TarBuilder().File("a", "one").HardLink("b", "a").File("a", "two"));
  EXPECT_EQ(Read("a"), "two");
  EXPECT_EQ(Read("b"), "one");
}

TEST_F(LayerWriterTest, LinksWithinTheLayerShareAnInode) {
  EXPECT_EQ(MustWrite(TarBuilder()
                          .Dir("d")
                          .File("d/a", "x")
                          .HardLink("b", "/d/a")
                          .HardLink("c", "./d/../b")
                          .Symlink("s", "gone")
                          .HardLink("t", "s")
                          .HardLink("b", "b")
                          .HardLink("b", "d/a")),
            Lines{});
  EXPECT_EQ(Stat("b").st_ino, Stat("d/a").st_ino);
  EXPECT_EQ(Stat("c").st_ino, Stat("d/a").st_ino);
  EXPECT_EQ(Stat("t").st_ino, Stat("s").st_ino);
}

TEST_F(LayerWriterTest, LinksToFilesOfLowerLayersBecomeFixUps) {
  EXPECT_EQ(MustWrite(TarBuilder()
                          .Dir("d")
                          .HardLink("d/b", "usr/bin/perl")
                          .HardLink("d/c", "d/b")
                          .HardLink("d/replaced", "lib/x")
                          .File("d/replaced", "own")
                          .File("d/late", "own")
                          .HardLink("d/late", "lib/y")),
            (Lines{"LOWER_LINK d/b -> usr/bin/perl", "LOWER_LINK d/c -> usr/bin/perl",
                   "LOWER_LINK d/late -> lib/y"}));
  EXPECT_EQ(Read("d/replaced"), "own");
  EXPECT_FALSE(Exists("d/late"));
}

TEST_F(LayerWriterTest, UndescribedParentsAreMadeAndRecorded) {
  EXPECT_EQ(MustWrite(TarBuilder().File("a/b/c/f", "x").Dir("a/b", 0700).File("z/.wh.gone")),
            (Lines{"WHITEOUT z/gone", "IMPLICIT_PARENT a", "IMPLICIT_PARENT a/b/c",
                   "IMPLICIT_PARENT z"}));
  EXPECT_EQ(Stat("a").st_mode, S_IFDIR | 0755u);
  EXPECT_EQ(Stat("a/b").st_mode, S_IFDIR | 0700u);
}

TEST_F(LayerWriterTest, ParentsThatAreLinksOfTheLayerAreFollowedInsideTheRoot) {
  EXPECT_EQ(MustWrite(TarBuilder()
                          .Dir("usr")
                          .Symlink("lib", "usr/lib")
                          .File("lib/a.so", "a")
                          .Symlink("abs", "/usr/lib")
                          .File("abs/b.so", "b")
                          .Symlink("up", "../../../../usr/lib")
                          .File("up/c.so", "c")
                          .HardLink("lib/d.so", "abs/a.so")
                          .Symlink("usr/self", "../usr")
                          .File("usr/self/self/e", "e")),
            Lines{"IMPLICIT_PARENT usr/lib"});
  for (const char* name :
       {"usr/lib/a.so", "usr/lib/b.so", "usr/lib/c.so", "usr/lib/d.so", "usr/e"}) {
    EXPECT_TRUE(Exists(name)) << name;
  }
  EXPECT_EQ(Stat("usr/lib/d.so").st_ino, Stat("usr/lib/a.so").st_ino);
}

TEST_F(LayerWriterTest, AReplacedLinkIsNotFollowedFromTheCache) {
  MustWrite(TarBuilder()
                .Dir("one")
                .Dir("two")
                .Symlink("l", "one")
                .File("l/a", "a")
                .Symlink("l", "two")
                .File("l/b", "b")
                .Dir("l")
                .File("l/c", "c"));
  EXPECT_EQ(Read("one/a"), "a");
  EXPECT_EQ(Read("two/b"), "b");
  EXPECT_EQ(Read("l/c"), "c");
  EXPECT_TRUE(S_ISDIR(Stat("l").st_mode));
}

TEST_F(LayerWriterTest, ALinkThatReplacesItselfThroughItselfIsNotFollowed) {
  MustWrite(
      TarBuilder().Dir("d").Symlink("d/x", "../d").File("d/x/a", "a").File("d/x/x", "now a file"));
  EXPECT_EQ(Read("d/a"), "a");
  EXPECT_EQ(Read("d/x"), "now a file");
}

// What escapes would hit: a directory beside the staging directory.
class EscapeTest : public LayerWriterTest {
 protected:
  EscapeTest() {
    EXPECT_TRUE(
        sys::WriteFileAtomic(outside_.fd(), "victim", "untouched", 0644, sys::Durability::kProcess)
            .ok());
    before_ = ListTree(outside_.path());
  }
  ~EscapeTest() override { EXPECT_EQ(ListTree(outside_.path()), before_); }
  // From dir_ to outside_.
  std::string Up() {
    return absl::StrCat("../", outside_.path().substr(outside_.path().rfind('/') + 1));
  }

  TempDir outside_;
  std::map<std::string, std::string> before_;
};

TEST_F(EscapeTest, NamesThatClimbOutAreRefused) {
  ExpectRefused(TarBuilder().File(Up() + "/victim", "bad"), "leads out of the layer's root");
  ExpectRefused(TarBuilder().File("../victim", "bad"), "leads out of the layer's root");
  ExpectRefused(TarBuilder().File("a/../../victim", "bad"), "leads out of the layer's root");
  ExpectRefused(TarBuilder().Dir("/../x"), "leads out of the layer's root");
  ExpectRefused(TarBuilder().Symlink("../x", "y"), "leads out of the layer's root");
}

TEST_F(EscapeTest, HardLinksThatClimbOutAreRefused) {
  ExpectRefused(TarBuilder().HardLink("h", Up() + "/victim"), "target of the hard link");
  ExpectRefused(TarBuilder().HardLink("h", "../../../../etc/passwd"), "target of the hard link");
  ExpectRefused(TarBuilder().Dir("d").HardLink("h", "d"), "a hard link to a directory");
  ExpectRefused(TarBuilder().HardLink("h", "./"), "a hard link to the layer's root");
}

TEST_F(EscapeTest, AbsoluteNamesStayInside) {
  MustWrite(TarBuilder().File(outside_.path() + "/victim", "inside"));
  EXPECT_EQ(Read(outside_.path() + "/victim"), "inside");
}

TEST_F(EscapeTest, WritingThroughLinksStaysInside) {
  MustWrite(TarBuilder()
                .Symlink("abs", outside_.path())
                .File("abs/victim", "inside")
                .Symlink("rel", Up())
                .File("rel/victim2", "inside")
                .Symlink("file", outside_.path() + "/victim")
                .File("file", "replaces the link")
                .Symlink("file2", outside_.path() + "/victim")
                .HardLink("file3", "file2"));
  EXPECT_EQ(Read(outside_.path() + "/victim"), "inside");
  EXPECT_EQ(Read("file"), "replaces the link");
  EXPECT_TRUE(S_ISLNK(Stat("file3").st_mode));
}

TEST_F(EscapeTest, AttributesNeverGoThroughALink) {
  MustWrite(TarBuilder()
                .Symlink("l", outside_.path() + "/victim")
                .Add({.name = "l",
                      .type = '2',
                      .mode = 0777,
                      .uid = 5,
                      .gid = 5,
                      .link = outside_.path() + "/victim"})
                .Symlink("d", outside_.path())
                .Dir("d", 0700));
  EXPECT_TRUE(S_ISDIR(Stat("d").st_mode));
}

TEST_F(EscapeTest, HardLinkTargetsResolveInside) {
  // `l/victim` is outside for the host, and nothing at all for the layer.
  EXPECT_EQ(MustWrite(TarBuilder().Symlink("l", outside_.path()).HardLink("h", "l/victim")),
            Lines{absl::StrCat("LOWER_LINK h -> ", outside_.path().substr(1), "/victim")});
  EXPECT_FALSE(Exists("h"));
}

TEST_F(LayerWriterTest, LoopsOfLinksAndFilesAsDirectoriesAreRefused) {
  ExpectRefused(TarBuilder().Symlink("a", "b").Symlink("b", "a").File("a/f"),
                "too many symbolic links");
  ExpectRefused(TarBuilder().File("f", "x").File("f/g"), "used as a directory");
}

TEST_F(LayerWriterTest, DevicesBecomeRecordsAndZeroIsRefused) {
  EXPECT_EQ(MustWrite(TarBuilder()
                          .Dir("dev")
                          .Device("dev/null", '3', 1, 3)
                          .Device("dev/sda", '4', 8, 0)
                          .HardLink("dev/null2", "dev/null")
                          .HardLink("dev/null3", "dev/null2")
                          .Device("dev/file", '3', 1, 5)
                          .File("dev/file", "not a device")
                          .File("dev/last", "x")
                          .Device("dev/last", '3', 1, 7)),
            (Lines{"CHARACTER_DEVICE dev/null 1:3", "BLOCK_DEVICE dev/sda 8:0",
                   "DEVICE_LINK dev/null2 -> dev/null", "DEVICE_LINK dev/null3 -> dev/null",
                   "CHARACTER_DEVICE dev/last 1:7"}));
  EXPECT_EQ(Read("dev/file"), "not a device");
  EXPECT_FALSE(Exists("dev/last"));
  ExpectRefused(TarBuilder().Device("x", '3', 0, 0), "a device 0:0");
  ExpectRefused(TarBuilder().Device("x", '4', 0, 0), "a device 0:0");
}

TEST_F(LayerWriterTest, ALinkToAReplacedDeviceIsStillADevice) {
  EXPECT_EQ(MustWrite(TarBuilder().Device("a", '3', 1, 3).HardLink("b", "a").File("a", "file")),
            Lines{"CHARACTER_DEVICE b 1:3"});
}

TEST_F(LayerWriterTest, RecordsGoWithTheDirectoryThatHeldThem) {
  EXPECT_EQ(MustWrite(TarBuilder()
                          .Dir("d")
                          .Device("d/null", '3', 1, 3)
                          .File("d/.wh.x")
                          .File("d/.wh..wh..opq")
                          .HardLink("d/low", "lib/x")
                          .File("d", "a file now")),
            Lines{});
}

// The same two entries in either order give the same result.
struct WhiteoutCase {
  const char* name;
  void (*first)(TarBuilder*);
  void (*second)(TarBuilder*);
  Lines want;
};

TEST_F(LayerWriterTest, WhiteoutsHideLowerLayersOnlyInEitherOrder) {
  const WhiteoutCase kCases[] = {
      {"a file wins",
       [](TarBuilder* t) { t->File(".wh.foo"); },
       [](TarBuilder* t) { t->File("foo", "x"); },
       {}},
      {"a link wins",
       [](TarBuilder* t) { t->File(".wh.foo"); },
       [](TarBuilder* t) { t->Symlink("foo", "x"); },
       {}},
      {"a directory becomes opaque",
       [](TarBuilder* t) { t->File(".wh.foo"); },
       [](TarBuilder* t) { t->Dir("foo"); },
       {"OPAQUE foo"}},
      {"so does an undescribed one, which takes nothing from below",
       [](TarBuilder* t) { t->File(".wh.foo"); },
       [](TarBuilder* t) { t->File("foo/a/b", "x"); },
       {"OPAQUE foo"}},
      {"a device wins",
       [](TarBuilder* t) { t->File(".wh.foo"); },
       [](TarBuilder* t) { t->Device("foo", '3', 1, 3); },
       {"CHARACTER_DEVICE foo 1:3"}},
      {"an opaque mark and an entry",
       [](TarBuilder* t) { t->File("d/.wh..wh..opq"); },
       [](TarBuilder* t) {
         t->Dir("d");
         t->File("d/x");
       },
       {"OPAQUE d"}},
      {"an opaque mark hides undescribed parents' origins",
       [](TarBuilder* t) {
         t->Dir("d");
         t->File("d/.wh..wh..opq");
       },
       [](TarBuilder* t) { t->File("d/a/b/x"); },
       {"OPAQUE d"}},
      {"whiteout of a directory and an opaque mark in it",
       [](TarBuilder* t) { t->File(".wh.d"); },
       [](TarBuilder* t) {
         t->Dir("d");
         t->File("d/.wh..wh..opq");
       },
       {"OPAQUE d"}},
      {"a plain whiteout",
       [](TarBuilder* t) { t->Dir("d"); },
       [](TarBuilder* t) { t->File("d/.wh.foo"); },
       {"WHITEOUT d/foo"}},
      {"whiteouts of a name twice",
       [](TarBuilder* t) { t->File(".wh.foo"); },
       [](TarBuilder* t) { t->File(".wh.foo"); },
       {"WHITEOUT foo"}},
  };
  for (const WhiteoutCase& test : kCases) {
    for (const bool swapped : {false, true}) {
      ASSERT_EQ(system(absl::StrCat("rm -rf ", dir_.path(), "/* ", dir_.path(), "/.wh*").c_str()),
                0);
      TarBuilder tar;
      (swapped ? test.second : test.first)(&tar);
      (swapped ? test.first : test.second)(&tar);
      EXPECT_EQ(MustWrite(tar), test.want) << test.name << (swapped ? ", swapped" : "");
      for (const auto& [path, line] : ListTree(dir_.path())) {
        EXPECT_FALSE(absl::StrContains(path, ".wh.")) << path;
      }
    }
  }
}

TEST_F(LayerWriterTest, WhiteoutsOfNoNameAreRefusedAndAufsMetadataSkipped) {
  for (const char* name : {".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."}) {
    ExpectRefused(TarBuilder().File(name), "a whiteout of no name");
  }
  ExpectRefused(TarBuilder().File(".wh.d/x"), "a whiteout is used as a directory");
  EXPECT_EQ(MustWrite(TarBuilder()
                          .Dir(".wh..wh.plnk")
                          .File(".wh..wh.plnk/1.2", "x")
                          .File(".wh..wh.aufs")
                          .File("d.wh.name", "not a whiteout")),
            Lines{});
  EXPECT_EQ(ListTree(dir_.path()).size(), 2u);
}

TEST_F(LayerWriterTest, TheLowestLayerDropsWhiteouts) {
  lowest_ = true;
  EXPECT_EQ(
      MustWrite(TarBuilder().File(".wh.a").Dir("d").File("d/.wh..wh..opq").File("gone/.wh.b")),
      Lines{});
  EXPECT_EQ(writer_->dropped_whiteouts(), 3u);
  EXPECT_FALSE(Exists("gone"));
}

TEST_F(LayerWriterTest, KeepsAndFiltersXattrs) {
  std::string capability("\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
  EXPECT_EQ(MustWrite(TarBuilder()
                          .Pax({{"SCHILY.xattr.user.mine", "v"},
                                {"SCHILY.xattr.trusted.overlay.redirect", "/etc"},
                                {"SCHILY.xattr.user.overlay.opaque", "y"},
                                {"SCHILY.xattr.security.selinux", "label"},
                                {"SCHILY.xattr.trusted.mine", "t"},
                                {"SCHILY.xattr.security.capability", capability}})
                          .Add({.name = "f", .mode = 04755, .uid = 1000}, "x")),
            Lines{"TRUSTED_XATTR f trusted.mine=t"});
  const std::string line = ListTree(dir_.path()).at("f");
  EXPECT_TRUE(absl::EndsWith(
      line, " security.capability=0100000200040000000000000000000000000000 user.mine=76"))
      << line;
  EXPECT_EQ(Stat("f").st_mode & 07777u, 04755u);
}

TEST_F(LayerWriterTest, DropsWhatItCannotKeepWithAWarning) {
  MustWrite(TarBuilder()
                .Pax({{"SCHILY.xattr.security.capability",
                       std::string("\0\0\0\x03", 4) + std::string(20, '\0')}})
                .File("v3")
                .Pax({{"SCHILY.xattr.user.a", "b"}})
                .Symlink("s", "t"));
  EXPECT_EQ(writer_->warnings().size(), 2u);
  ExpectRefused(TarBuilder().Pax({{"SCHILY.xattr.security.capability", "short"}}).File("bad"),
                "malformed");
}

TEST_F(LayerWriterTest, DefaultAclsAreNotInheritedByWhatTheLayerHolds) {
  // version 2; user::rwx, group::---, other::---
  const std::string acl(
      "\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x04\0\0\0\xff\xff\xff\xff\x20\0\0\0\xff\xff\xff\xff",
      28);
  MustWrite(TarBuilder()
                .Pax({{"SCHILY.xattr.system.posix_acl_default", acl}})
                .Dir("d")
                .File("d/f", "x", 0666));
  EXPECT_EQ(Stat("d/f").st_mode & 07777u, 0666u);
  char value[64];
  EXPECT_GT(getxattr((dir_ / "d").c_str(), "system.posix_acl_default", value, sizeof value), 0);
}

TEST_F(LayerWriterTest, WritesSparseFilesWithTheirHoles) {
  MustWrite(TarBuilder()
                .Pax({{"GNU.sparse.size", "10000000"}, {"GNU.sparse.map", "5000000,4"}})
                .File("s", "data")
                .Pax({{"GNU.sparse.size", "4096"}, {"GNU.sparse.map", "0,0"}})
                .File("holes", ""));
  EXPECT_EQ(Stat("s").st_size, 10000000);
  EXPECT_LT(Stat("s").st_blocks, 100);
  EXPECT_EQ(Stat("holes").st_size, 4096);
  EXPECT_EQ(writer_->bytes(), 4u);
}

TEST_F(LayerWriterTest, BoundsEntriesBytesDepthXattrsAndRecords) {
  limits_.max_entries = 2;
  ExpectRefused(TarBuilder().File("a").File("b").File("c"), "more than 2 entries");
  limits_ = Limits();
  limits_.max_file_bytes = 100;
  ExpectRefused(TarBuilder().File("a", std::string(60, 'x')).File("b", std::string(60, 'x')),
                "more than 100 bytes");
  ExpectRefused(
      TarBuilder().Pax({{"GNU.sparse.size", "1000000"}, {"GNU.sparse.map", "0,1"}}).File("s", "x"),
      "more than 100 bytes");
  limits_ = Limits();
  limits_.max_path_depth = 3;
  ExpectRefused(TarBuilder().Dir("p/q/r/s"), "nested deeper");
  ExpectRefused(TarBuilder().Symlink("l", "p/q/r").File("l/s/t"), "too deep");
  limits_ = Limits();
  limits_.max_xattr_bytes = 10;
  ExpectRefused(TarBuilder().Pax({{"SCHILY.xattr.user.a", "0123456789"}}).File("x"),
                "extended attributes have more than");
  limits_ = Limits();
  limits_.max_records = 1;
  ExpectRefused(TarBuilder().File(".wh.a").File(".wh.b"), "too many whiteouts");
}

TEST_F(LayerWriterTest, TakesATreeAsDeepAsAPathCanBe) {
  limits_.max_path_depth = 4096;
  std::string path = "d";
  while (path.size() < 4000) path += "/d";
  TarBuilder tar;
  tar.Pax({{"path", path}}).Dir("x");
  tar.Pax({{"path", path + "/f"}}).File("x", "deep");
  MustWrite(tar);
  tar.File("d", "replaces it all");
  MustWrite(tar);
  EXPECT_EQ(Read("d"), "replaces it all");
  std::string longer = path;
  while (longer.size() < 4200) longer += "/d";
  ExpectRefused(TarBuilder().Pax({{"path", longer}}).Dir("x"), "longer than");
}

TEST_F(LayerWriterTest, CountsWhatItMade) {
  MustWrite(TarBuilder().Dir("d").File("d/f", "12345").HardLink("h", "d/f").Symlink("s", "x"));
  EXPECT_EQ(writer_->entries(), 4u);
  EXPECT_EQ(writer_->bytes(), 5u);
  EXPECT_EQ(writer_->inodes(), 3u);
}

}  // namespace
}  // namespace davit::images::unpack
