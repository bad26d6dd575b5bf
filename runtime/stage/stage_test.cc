#include "runtime/stage/stage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <vector>

#include "gtest/gtest.h"

namespace davit::runtime::stage {
namespace {

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }

int Null() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

// Runs `body` in a child; what it returns is the exit code.
int InChild(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) _exit(body());
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(StageTest, DescriptorsThatNoSlotNamesAreClosed) {
  alignas(8) plan::Header header;
  header.slot_count = 4;
  std::vector<int> fds;
  for (int i = 0; i < 12; ++i) fds.push_back(Null());
  int32_t slots[4] = {fds[9], -1, fds[2], fds[3]};
  Stage stage;
  stage.view = plan::View({reinterpret_cast<const unsigned char*>(&header), sizeof(header)});
  stage.fds = slots;
  stage.report = fds[5];
  EXPECT_EQ(InChild([&] {
              if (!CloseUnnamed(stage)) return 100;
              for (int i = 0; i < 12; ++i) {
                const bool kept = i == 9 || i == 2 || i == 3 || i == 5;
                if (IsOpen(fds[i]) != kept) return 1 + i;
              }
              return IsOpen(0) && IsOpen(1) && IsOpen(2) ? 0 : 101;
            }),
            0);
  for (const int fd : fds) close(fd);
}

class SlotTransferTest : public ::testing::Test {
 protected:
  SlotTransferTest() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair_), 0); }
  ~SlotTransferTest() override {
    close(pair_[0]);
    close(pair_[1]);
  }
  int pair_[2];
};

TEST_F(SlotTransferTest, WhatWasOpenedArrivesInItsSlot) {
  constexpr uint32_t kCount = 300;  // more than one message holds
  std::vector<int32_t> known(kCount, -1);
  std::vector<int32_t> sent = known;
  known[7] = sent[7] = pair_[0];  // was there before
  for (uint32_t i = 10; i < kCount; ++i) sent[i] = Null();
  ASSERT_EQ(SendSlots(pair_[0], sent.data(), known.data(), kCount), 0);
  std::vector<int32_t> got = known;
  ASSERT_EQ(ReceiveSlots(pair_[1], got.data(), kCount), 0);
  for (uint32_t i = 0; i < kCount; ++i) {
    if (i < 10) {
      EXPECT_EQ(got[i], known[i]) << i;
      continue;
    }
    EXPECT_TRUE(IsOpen(got[i])) << i;
    EXPECT_NE(got[i], sent[i]);
    EXPECT_EQ(fcntl(got[i], F_GETFD), FD_CLOEXEC);
    close(got[i]);
    close(sent[i]);
  }
}

TEST_F(SlotTransferTest, NothingSentIsNothingReceived) {
  int32_t slots[2] = {-1, -1};
  EXPECT_EQ(SendSlots(pair_[0], slots, slots, 2), 0);
  EXPECT_EQ(ReceiveSlots(pair_[1], slots, 2), 0);
  EXPECT_EQ(slots[0], -1);
}

TEST_F(SlotTransferTest, AFullDescriptorTableIsSaid) {
  int32_t none[3] = {-1, -1, -1};
  int32_t sent[3] = {pair_[0], pair_[0], pair_[0]};
  ASSERT_EQ(SendSlots(pair_[0], sent, none, 3), 0);
  EXPECT_EQ(InChild([&] {
              const int next = Null();
              close(next);
              const rlimit limit = {static_cast<rlim_t>(next + 1), static_cast<rlim_t>(next + 1)};
              setrlimit(RLIMIT_NOFILE, &limit);
              return ReceiveSlots(pair_[1], none, 3) == -EMFILE ? 0 : 1;
            }),
            0);
}

}  // namespace
}  // namespace davit::runtime::stage
