#include "sandbox/status_record.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

#include "gtest/gtest.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::ContainerState;

class StatusRecordTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-status-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    dir_ = pattern;
    path_ = dir_ + "/status";
  }
  void TearDown() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, dir_).ok()); }

  static ContainerState State(int pid) {
    ContainerState state;
    state.set_container_id("c1");
    state.set_phase(ContainerState::RUNNING);
    state.set_pid(pid);
    return state;
  }

  std::string Bytes() { return *sys::ReadFileAt(AT_FDCWD, path_, 1 << 20); }

  // Overwrites part of the file in place.
  void Smash(size_t offset, const std::string& bytes) {
    auto fd = sys::OpenAt(AT_FDCWD, path_, O_WRONLY);
    ASSERT_TRUE(fd.ok());
    ASSERT_EQ(pwrite(fd->get(), bytes.data(), bytes.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
  }

  // Slots are chosen by the parity of the sequence number, which starts at 1.
  static size_t SlotOf(int nth_write) { return nth_write % 2 * kStatusSlotSize; }

  std::string dir_;
  std::string path_;
};

TEST_F(StatusRecordTest, TheNewestOfManyWritesIsRead) {
  auto writer = StatusWriter::Open(path_);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (int pid = 1; pid <= 5; ++pid) {
    ASSERT_TRUE(writer->Write(State(pid)).ok());
    auto state = ReadStatus(path_);
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_EQ(state->pid(), pid);
    EXPECT_EQ(state->container_id(), "c1");
  }
  EXPECT_EQ(Bytes().size(), kStatusFileSize);
}

TEST_F(StatusRecordTest, TheFileIsPrivateAndItsSpaceIsReserved) {
  ASSERT_TRUE(StatusWriter::Open(path_).ok());
  struct stat st;
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0600u);
  EXPECT_GE(st.st_blocks * 512, static_cast<blkcnt_t>(kStatusFileSize));
}

TEST_F(StatusRecordTest, ATornWriteLeavesThePreviousRecord) {
  auto writer = StatusWriter::Open(path_);
  ASSERT_TRUE(writer->Write(State(1)).ok());
  ASSERT_TRUE(writer->Write(State(2)).ok());
  const std::string before = Bytes();
  ASSERT_TRUE(writer->Write(State(3)).ok());
  const std::string after = Bytes();
  const size_t slot = SlotOf(3);
  // Every possible cut of the third write: the new record is whole, or the second one is read.
  for (size_t cut = 0; cut <= kStatusHeaderSize + State(3).ByteSizeLong(); ++cut) {
    std::string torn = before;
    torn.replace(slot, cut, after, slot, cut);
    auto state = ParseStatus(torn);
    ASSERT_TRUE(state.ok()) << cut << ": " << state.status();
    EXPECT_EQ(state->pid(), torn == after ? 3 : 2) << cut;
  }
}

TEST_F(StatusRecordTest, EveryFlippedBitOfTheNewestSlotIsNoticed) {
  auto writer = StatusWriter::Open(path_);
  ASSERT_TRUE(writer->Write(State(1)).ok());
  ASSERT_TRUE(writer->Write(State(2)).ok());
  const std::string good = Bytes();
  const size_t size = kStatusHeaderSize - 4 + State(2).ByteSizeLong();
  for (size_t at = 0; at < size; ++at) {
    const size_t offset = SlotOf(2) + (at < 28 ? at : at + 4);  // 28 to 31 are reserved
    for (int bit = 0; bit < 8; ++bit) {
      std::string bad = good;
      bad[offset] = static_cast<char>(bad[offset] ^ (1 << bit));
      auto state = ParseStatus(bad);
      ASSERT_TRUE(state.ok()) << at << "." << bit;
      EXPECT_EQ(state->pid(), 1) << at << "." << bit;
    }
  }
}

TEST_F(StatusRecordTest, NoValidSlotIsDataLoss) {
  auto writer = StatusWriter::Open(path_);
  ASSERT_TRUE(writer->Write(State(1)).ok());
  Smash(SlotOf(1) + kStatusHeaderSize, "garbage");
  EXPECT_EQ(ReadStatus(path_).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ParseStatus("short").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StatusRecordTest, ALengthBeyondTheSlotIsRefused) {
  auto writer = StatusWriter::Open(path_);
  ASSERT_TRUE(writer->Write(State(1)).ok());
  Smash(SlotOf(1) + 12, std::string("\xff\xff\xff\xff", 4));
  EXPECT_EQ(ReadStatus(path_).status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(StatusRecordTest, MissingAndNeverWrittenFilesAreNotFound) {
  EXPECT_EQ(ReadStatus(path_).status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(StatusWriter::Open(path_).ok());
  EXPECT_EQ(ReadStatus(path_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(StatusRecordTest, AReopenedFileIsContinued) {
  {
    auto writer = StatusWriter::Open(path_);
    ASSERT_TRUE(writer->Write(State(1)).ok());
    ASSERT_TRUE(writer->Write(State(2)).ok());
  }
  auto writer = StatusWriter::Open(path_);
  ASSERT_TRUE(writer.ok());
  EXPECT_EQ(ReadStatus(path_)->pid(), 2);
  ASSERT_TRUE(writer->Write(State(3)).ok());
  EXPECT_EQ(ReadStatus(path_)->pid(), 3);
  // The record before it is still there to fall back on.
  Smash(SlotOf(3), "X");
  EXPECT_EQ(ReadStatus(path_)->pid(), 2);
}

TEST_F(StatusRecordTest, ALongMessageIsCutBetweenCharacters) {
  auto writer = StatusWriter::Open(path_);
  ContainerState state = State(1);
  std::string message = "m";
  while (message.size() <= kStatusMaxMessage) message += "\xe2\x82\xac";
  state.set_message(message);
  ASSERT_TRUE(writer->Write(state).ok());
  const auto read = ReadStatus(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ((read->message().size() - 1) % 3, 0u);
}

TEST_F(StatusRecordTest, ALongMessageIsCutAndALongIdRefused) {
  auto writer = StatusWriter::Open(path_);
  ContainerState state = State(1);
  state.set_message(std::string(100000, 'm'));
  ASSERT_TRUE(writer->Write(state).ok());
  EXPECT_EQ(ReadStatus(path_)->message().size(), kStatusMaxMessage);
  state.set_container_id(std::string(4096, 'i'));
  EXPECT_EQ(writer->Write(state).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadStatus(path_)->container_id(), "c1");
}

}  // namespace
}  // namespace davit::sandbox
