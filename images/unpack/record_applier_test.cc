#include "images/unpack/record_applier.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <string>

#include "images/unpack/testing/tree_listing.h"

namespace davit::images::unpack {
namespace {

using ::davit::unpack::v1::Record;
using testing::ListTree;
using testing::TempDir;

Record Make(Record::Kind kind, const std::string& path) {
  Record record;
  record.set_kind(kind);
  record.set_path(path);
  return record;
}

Record Device(const std::string& path, uint32_t major, uint32_t minor) {
  Record record = Make(Record::CHARACTER_DEVICE, path);
  record.set_mode(0622);
  record.set_uid(3);
  record.set_gid(4);
  record.set_mtime_seconds(99);
  record.set_mtime_nanoseconds(5);
  record.set_device_major(major);
  record.set_device_minor(minor);
  return record;
}

Record Link(const std::string& path, const std::string& target) {
  Record record = Make(Record::DEVICE_LINK, path);
  record.set_target(target);
  return record;
}

Record Xattr(const std::string& path, const std::string& name) {
  Record record = Make(Record::TRUSTED_XATTR, path);
  record.set_name(name);
  record.set_value("v");
  return record;
}

// A staging directory with a directory `d`, a file `d/f`, and links that lead out of it.
class RecordApplierTest : public ::testing::Test {
 protected:
  RecordApplierTest() {
    EXPECT_EQ(mkdirat(dir_.fd(), "d", 0755), 0);
    close(openat(dir_.fd(), "d/f", O_CREAT | O_WRONLY, 0644));
    EXPECT_EQ(symlinkat(outside_.path().c_str(), dir_.fd(), "out"), 0);
    EXPECT_EQ(symlinkat("d", dir_.fd(), "in"), 0);
    EXPECT_EQ(symlinkat("/etc/passwd", dir_.fd(), "passwd"), 0);
  }
  ~RecordApplierTest() override { EXPECT_EQ(ListTree(outside_.path()).size(), 1u); }

  void ExpectRefused(const Record& record) {
    const auto before = ListTree(dir_.path());
    const absl::Status status = applier_.Apply(record);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << record.path() << ": " << status;
    EXPECT_EQ(ListTree(dir_.path()), before);
  }

  TempDir dir_;
  TempDir outside_;
  RecordApplier applier_{dir_.fd(), Limits()};
};

TEST_F(RecordApplierTest, MakesWhatWasAskedForAndKeepsDirectoryTimes) {
  const timespec old[2] = {{1000, 1}, {2000, 2}};
  ASSERT_EQ(utimensat(dir_.fd(), "d", old, 0), 0);
  ASSERT_TRUE(applier_.Apply(Make(Record::WHITEOUT, "d/gone")).ok());
  ASSERT_TRUE(applier_.Apply(Make(Record::OPAQUE, "d")).ok());
  ASSERT_TRUE(applier_.Apply(Device("d/tty", 5, 0)).ok());
  ASSERT_TRUE(applier_.Apply(Link("d/tty2", "d/tty")).ok());
  ASSERT_TRUE(applier_.Apply(Xattr("d/f", "trusted.mine")).ok());
  const auto listing = ListTree(dir_.path());
  EXPECT_EQ(listing.at("d"), "040755 0:0 2000.000000002 trusted.overlay.opaque=79");
  EXPECT_EQ(listing.at("d/gone").substr(0, 6), "020000");
  EXPECT_NE(listing.at("d/gone").find("dev 0:0"), std::string::npos);
  EXPECT_EQ(listing.at("d/tty"), "020622 3:4 99.000000005 dev 5:0");
  EXPECT_EQ(listing.at("d/tty2"), "020622 3:4 99.000000005 dev 5:0 same as d/tty");
  EXPECT_NE(listing.at("d/f").find("trusted.mine=76"), std::string::npos);
  EXPECT_EQ(applier_.inodes(), 1u);
}

TEST_F(RecordApplierTest, KeepsFixUpsForLater) {
  ASSERT_TRUE(applier_.Apply(Make(Record::IMPLICIT_PARENT, "d")).ok());
  Record link = Make(Record::LOWER_LINK, "d/x");
  link.set_target("lib/y");
  ASSERT_TRUE(applier_.Apply(link).ok());
  ASSERT_TRUE(applier_.Apply(Make(Record::OPAQUE, "")).ok());
  EXPECT_EQ(applier_.fix_ups().implicit_parents, std::vector<std::string>{"d"});
  ASSERT_EQ(applier_.fix_ups().hard_links.size(), 1u);
  EXPECT_EQ(applier_.fix_ups().hard_links[0].target, "lib/y");
  EXPECT_TRUE(applier_.opaque_root());
}

TEST_F(RecordApplierTest, RefusesPathsThatLeaveOrAreNotClean) {
  for (const char* path : {"../x", "/etc/x", "d/../../x", "d/../x", "./x", "d//x", "d/x/", "..",
                           ".", "", "/", "d/.wh.x", ".wh..wh..opq"}) {
    ExpectRefused(Make(Record::WHITEOUT, path));
    ExpectRefused(Device(path, 1, 3));
    ExpectRefused(Make(Record::IMPLICIT_PARENT, path));
    Record link = Make(Record::LOWER_LINK, "d/ok");
    link.set_target(path);
    ExpectRefused(link);
    ExpectRefused(Link("d/ok", path));
  }
  ExpectRefused(Make(Record::WHITEOUT, std::string("a\0b", 3)));
  ExpectRefused(Make(Record::WHITEOUT, std::string(5000, 'a')));
  EXPECT_TRUE(applier_.fix_ups().empty());
}

TEST_F(RecordApplierTest, FollowsNoLink) {
  ExpectRefused(Make(Record::WHITEOUT, "out/x"));
  ExpectRefused(Make(Record::WHITEOUT, "in/x"));
  ExpectRefused(Device("out/null", 1, 3));
  ExpectRefused(Make(Record::OPAQUE, "out"));
  ExpectRefused(Make(Record::OPAQUE, "in"));
  ExpectRefused(Xattr("passwd", "trusted.x"));
  ExpectRefused(Xattr("out", "trusted.x"));
  EXPECT_LT(getxattr("/etc/passwd", "trusted.x", nullptr, 0), 0);
}

TEST_F(RecordApplierTest, PutsNodesOnlyWhereNothingIs) {
  ExpectRefused(Make(Record::WHITEOUT, "d/f"));
  ExpectRefused(Make(Record::WHITEOUT, "out"));
  ExpectRefused(Device("d", 1, 3));
  ExpectRefused(Make(Record::WHITEOUT, "missing/x"));
  ExpectRefused(Make(Record::WHITEOUT, "d/f/x"));
}

TEST_F(RecordApplierTest, RefusesDevicesThatImagesMayNotHave) {
  ExpectRefused(Device("d/zero", 0, 0));
  ExpectRefused(Device("d/big", 4096, 0));
  ExpectRefused(Device("d/big", 1, 1 << 20));
  Record record = Device("d/x", 1, 3);
  record.set_mode(0100644);
  ExpectRefused(record);
  record = Device("d/x", 1, 3);
  record.set_uid(0xffffffff);
  ExpectRefused(record);
  record = Device("d/x", 1, 3);
  record.set_mtime_nanoseconds(1'000'000'000);
  ExpectRefused(record);
}

TEST_F(RecordApplierTest, LinksOnlyDevices) {
  ExpectRefused(Link("d/x", "d/f"));
  ExpectRefused(Link("d/x", "missing"));
  ExpectRefused(Link("d/x", "out"));
  ASSERT_TRUE(applier_.Apply(Make(Record::WHITEOUT, "d/gone")).ok());
  ExpectRefused(Link("d/x", "d/gone"));
}

TEST_F(RecordApplierTest, SetsOnlyTrustedXattrsThatOverlayfsDoesNotObey) {
  for (const char* name : {"trusted.overlay.opaque", "trusted.overlay.redirect", "user.x",
                           "security.capability", "security.selinux", "", "trusted"}) {
    ExpectRefused(Xattr("d/f", name));
  }
  ExpectRefused(Xattr("d/f", std::string("trusted.a\0b", 11)));
}

TEST_F(RecordApplierTest, NeverOpensADevice) {
  ASSERT_TRUE(applier_.Apply(Device("d/null", 1, 3)).ok());
  ExpectRefused(Xattr("d/null", "trusted.x"));
}

TEST_F(RecordApplierTest, RefusesUnknownKinds) {
  ExpectRefused(Make(Record::KIND_UNSPECIFIED, "d/x"));
  ExpectRefused(Make(static_cast<Record::Kind>(77), "d/x"));
}

}  // namespace
}  // namespace davit::images::unpack
