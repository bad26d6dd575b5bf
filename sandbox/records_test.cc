#include "sandbox/records.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/state.pb.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

class RecordsTest : public ::testing::Test {
 protected:
  RecordsTest() : directory_(absl::StrCat(testing::TempDir(), "/records_test.", getpid())) {
    EXPECT_TRUE(sys::MakeDirs(directory_, 0700).ok());
  }
  ~RecordsTest() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, directory_).ok()); }

  void WriteRaw(absl::string_view data) {
    auto dir = sys::OpenDirAt(AT_FDCWD, directory_);
    ASSERT_TRUE(
        sys::WriteFileAtomic(dir->get(), kRecordFile, data, 0600, sys::Durability::kProcess).ok());
  }
  std::string ReadRaw() {
    return *sys::ReadFileAt(AT_FDCWD, absl::StrCat(directory_, "/", kRecordFile), 1 << 20);
  }

  const std::string directory_;
};

state::v1::PodRecord SomePod() {
  state::v1::PodRecord record;
  record.set_format_version(kRecordVersion);
  record.set_id(std::string(64, 'a'));
  record.set_name_key("n_ns_uid_0");
  record.set_metadata(std::string("\0\xff\x80 bytes", 9));
  (*record.mutable_annotations())["k"] = "\xff";
  return record;
}

TEST_F(RecordsTest, APodRecordReadsBackAsItWasWritten) {
  ASSERT_TRUE(WritePodRecord(directory_, SomePod()).ok());
  const auto read = ReadPodRecord(directory_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->SerializeAsString(), SomePod().SerializeAsString());
}

TEST_F(RecordsTest, AMissingRecordIsNotFound) {
  EXPECT_EQ(ReadPodRecord(directory_).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ReadContainerRecord(directory_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RecordsTest, ARecordOfTheOtherKindIsRefused) {
  ASSERT_TRUE(WritePodRecord(directory_, SomePod()).ok());
  EXPECT_EQ(ReadContainerRecord(directory_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(RecordsTest, EveryTruncationAndEveryFlippedByteIsNoticed) {
  ASSERT_TRUE(WritePodRecord(directory_, SomePod()).ok());
  const std::string good = ReadRaw();
  for (size_t length = 0; length < good.size(); ++length) {
    WriteRaw(good.substr(0, length));
    EXPECT_FALSE(ReadPodRecord(directory_).ok()) << "cut to " << length;
  }
  for (size_t i = 0; i < good.size(); ++i) {
    if (i >= 20 && i < 24) continue;  // reserved, not checked
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x41);
    WriteRaw(bad);
    EXPECT_FALSE(ReadPodRecord(directory_).ok()) << "byte " << i;
  }
}

TEST_F(RecordsTest, ANewerFormatIsToldApartFromDamage) {
  state::v1::PodRecord record = SomePod();
  record.set_format_version(kRecordVersion + 1);
  ASSERT_TRUE(WritePodRecord(directory_, record).ok());
  EXPECT_EQ(ReadPodRecord(directory_).status().code(), absl::StatusCode::kUnimplemented);
}

TEST_F(RecordsTest, ARecordThatIsThereIsChangedOnAFullDiskToo) {
  ASSERT_EQ(mount("tmpfs", directory_.c_str(), "tmpfs", 0, "size=64k"), 0);
  state::v1::PodRecord record = SomePod();
  const absl::Status first = WritePodRecord(directory_, record);
  const sys::UniqueFd filler(
      open(absl::StrCat(directory_, "/filler").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  const std::string block(4096, 'x');
  while (write(filler.get(), block.data(), block.size()) > 0) continue;
  record.set_reason("stopped");
  const absl::Status second = WritePodRecord(directory_, record);
  const auto read = ReadPodRecord(directory_);
  // One that does not fit says so, and leaves what there was.
  state::v1::PodRecord big = record;
  big.set_metadata(std::string(10000, 'm'));
  const absl::Status third = WritePodRecord(directory_, big);
  const auto read_again = ReadPodRecord(directory_);
  ASSERT_EQ(umount2(directory_.c_str(), MNT_DETACH), 0);
  ASSERT_TRUE(first.ok()) << first;
  ASSERT_TRUE(second.ok()) << second;
  EXPECT_EQ(read->SerializeAsString(), record.SerializeAsString());
  EXPECT_EQ(third.code(), absl::StatusCode::kResourceExhausted) << third;
  EXPECT_EQ(read_again->SerializeAsString(), record.SerializeAsString());
}

TEST_F(RecordsTest, WhatIsSetAsideIsKeptUnderANameOfItsOwn) {
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(sys::MakeDirs(absl::StrCat(directory_, "/foreign"), 0700).ok());
    const auto path = SetAside(directory_, "foreign");
    ASSERT_TRUE(path.ok()) << path.status();
    EXPECT_EQ(*path, absl::StrCat(directory_, "/set-aside/foreign.", i));
    EXPECT_EQ(access(path->c_str(), F_OK), 0);
  }
  EXPECT_EQ(*ListDirectory(directory_), std::vector<std::string>{"set-aside"});
}

TEST_F(RecordsTest, AMissingDirectoryListsAsEmpty) {
  EXPECT_TRUE(ListDirectory(directory_ + "/none")->empty());
}

TEST_F(RecordsTest, TheBootIdIsAUuid) { EXPECT_EQ(ReadBootId()->size(), 36u); }

}  // namespace
}  // namespace davit::sandbox
