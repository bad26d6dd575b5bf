#include "runtime/sys/socket.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace davit::sys {
namespace {

TEST(SocketTest, CarriesDataAndDescriptors) {
  auto pair = SeqpacketPair();
  ASSERT_TRUE(pair.ok());
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd read_end(pipe_fds[0]);
  UniqueFd write_end(pipe_fds[1]);
  const int fds[] = {write_end.get()};
  ASSERT_TRUE(SendPacket(pair->first.get(), "hello", fds).ok());
  auto packet = ReceivePacket(pair->second.get());
  ASSERT_TRUE(packet.ok());
  EXPECT_EQ(packet->data, "hello");
  ASSERT_EQ(packet->fds.size(), 1u);
  ASSERT_EQ(write(packet->fds[0].get(), "x", 1), 1);
  char byte;
  EXPECT_EQ(read(read_end.get(), &byte, 1), 1);
}

TEST(SocketTest, TellsAnEmptySocketFromAClosedOne) {
  auto pair = SeqpacketPair();
  ASSERT_TRUE(pair.ok());
  fcntl(pair->second.get(), F_SETFL, O_NONBLOCK);
  EXPECT_EQ(ReceivePacket(pair->second.get()).status().code(), absl::StatusCode::kUnavailable);
  pair->first.reset();
  EXPECT_EQ(ReceivePacket(pair->second.get()).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(SendPacket(pair->second.get(), "x", {}).code(), absl::StatusCode::kUnavailable);
}

TEST(SocketTest, RefusesAPacketThatIsTooLarge) {
  auto pair = SeqpacketPair();
  ASSERT_TRUE(pair.ok());
  EXPECT_EQ(SendPacket(pair->first.get(), std::string(kMaxPacket + 1, 'x'), {}).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(SocketTest, APathMayBeLongerThanAnAddress) {
  std::string directory = ::testing::TempDir() + "/socket_test." + std::to_string(getpid());
  ASSERT_EQ(mkdir(directory.c_str(), 0700), 0);
  const std::string deep = directory + "/" + std::string(120, 'd');
  ASSERT_EQ(mkdir(deep.c_str(), 0700), 0);
  const std::string path = deep + "/s.sock";
  {
    auto listener = SeqpacketListen(path, 1);
    ASSERT_TRUE(listener.ok()) << listener.status();
    auto client = SeqpacketConnect(path);
    ASSERT_TRUE(client.ok()) << client.status();
    EXPECT_TRUE(SeqpacketListen(path, 1).ok()) << "an old socket there is replaced";
  }
  EXPECT_EQ(SeqpacketConnect(deep + "/none").status().code(), absl::StatusCode::kNotFound);
  unlink(path.c_str());
  rmdir(deep.c_str());
  rmdir(directory.c_str());
}

TEST(SocketTest, WhoListensIsTheProcessThatBeganItAndNoSuccessorOfItsNumber) {
  std::string path = ::testing::TempDir() + "/peer";
  const auto own = SeqpacketListen(path, 1);
  ASSERT_TRUE(own.ok()) << own.status();
  const auto peer = PeerOf(SeqpacketConnect(path)->get());
  ASSERT_TRUE(peer.ok()) << peer.status();
  EXPECT_EQ(peer->pid, getpid());
  EXPECT_EQ(syscall(SYS_pidfd_send_signal, peer->pidfd.get(), 0, nullptr, 0), 0);

  // One that has ended, and left its socket to another.
  auto pair = SeqpacketPair();
  ASSERT_TRUE(pair.ok());
  const pid_t child = fork();
  if (child == 0) {
    const auto listener = SeqpacketListen(path, 1);
    const int fds[] = {listener->get()};
    SendPacket(pair->second.get(), "here", fds).IgnoreError();
    _exit(0);
  }
  const auto packet = ReceivePacket(pair->first.get());
  ASSERT_TRUE(packet.ok()) << packet.status();
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const auto gone = PeerOf(SeqpacketConnect(path)->get());
  if (gone.ok()) {
    EXPECT_NE(syscall(SYS_pidfd_send_signal, gone->pidfd.get(), 0, nullptr, 0), 0);
    EXPECT_EQ(errno, ESRCH);
  } else {
    EXPECT_EQ(gone.status().code(), absl::StatusCode::kNotFound) << gone.status();
  }
}

TEST(SocketTest, AListenerThatDoesNotAcceptHoldsNobodyUp) {
  const std::string path = ::testing::TempDir() + "/socket_hung." + std::to_string(getpid());
  auto listener = SeqpacketListen(path, 1);
  ASSERT_TRUE(listener.ok()) << listener.status();
  std::vector<UniqueFd> waiting;
  absl::Status refused;
  while (refused.ok() && waiting.size() < 100) {
    auto client = SeqpacketConnect(path);
    refused = client.status();
    if (client.ok()) waiting.push_back(*std::move(client));
  }
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable) << refused;
  ASSERT_FALSE(waiting.empty());
  EXPECT_EQ(fcntl(waiting[0].get(), F_GETFL) & O_NONBLOCK, 0) << "what connects blocks as usual";
  unlink(path.c_str());
}

}  // namespace
}  // namespace davit::sys
