#include "sandbox/supervisor/hello_page.h"

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/socket.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::ContainerState;
using supervisor::v1::HelloReply;

ContainerState Container(int number, size_t message) {
  ContainerState state;
  state.set_container_id(std::string(60, 'c') + absl::StrCat(1000 + number));
  state.set_phase(ContainerState::EXITED);
  state.set_created_at(1795506314000000000);
  state.set_started_at(1795506314000000000);
  state.set_finished_at(1795506314000000000);
  state.set_wait_status(256);
  state.set_message(std::string(message, 'm'));
  return state;
}

TEST(HelloPage, AnyNumberOfContainersFitsInPagesOfOnePacketEach) {
  constexpr int kContainers = 1000;
  int told = 0;
  int pages = 0;
  for (bool more = true; more; ++pages) {
    HelloReply reply;
    HelloPage page(true, &reply);
    for (int i = told; i < kContainers && page.Add(Container(i, 5000), -1); ++i) {
    }
    ASSERT_GT(reply.containers_size(), 0);
    EXPECT_LT(reply.ByteSizeLong(), sys::kMaxPacket - 1024);
    for (const ContainerState& state : reply.containers()) {
      EXPECT_EQ(state.container_id(), Container(told, 0).container_id());
      EXPECT_EQ(state.message().size(), 200u);
      ++told;
    }
    more = reply.more();
  }
  EXPECT_EQ(told, kContainers);
  EXPECT_GT(pages, 1);
}

TEST(HelloPage, NoMorePidfdsAreSentThanAPacketTakes) {
  HelloReply reply;
  HelloPage page(true, &reply);
  ContainerState running = Container(1, 0);
  running.set_pid(7);
  size_t added = 0;
  while (added < 2 * sys::kMaxPacketFds && page.Add(running, STDIN_FILENO)) ++added;
  EXPECT_EQ(added, sys::kMaxPacketFds);
  EXPECT_TRUE(reply.more());
  EXPECT_EQ(page.TakePidfds().size(), sys::kMaxPacketFds);
}

TEST(HelloPage, APidfdIsOfTheContainerThatItSays) {
  HelloReply reply;
  HelloPage page(true, &reply);
  ASSERT_TRUE(page.Add(Container(1, 0), -1));
  ASSERT_TRUE(page.Add(Container(2, 0), STDIN_FILENO));
  ASSERT_EQ(reply.pidfd_of_size(), 1);
  EXPECT_EQ(reply.pidfd_of(0), 1u);
  EXPECT_EQ(page.TakePidfds().size(), 1u);
}

TEST(HelloPage, AnOlderDaemonIsToldOfAllAtOnce) {
  HelloReply reply;
  HelloPage page(false, &reply);
  ContainerState running = Container(1, 0);
  running.set_pid(7);
  for (int i = 0; i < 150; ++i) ASSERT_TRUE(page.Add(running, STDIN_FILENO));
  EXPECT_FALSE(reply.more());
  EXPECT_EQ(reply.pidfd_of_size(), 0);
  EXPECT_EQ(reply.containers(0).pid(), 7);
  EXPECT_TRUE(page.TakePidfds().empty());
  EXPECT_LT(reply.ByteSizeLong(), sys::kMaxPacket);
}

}  // namespace
}  // namespace davit::sandbox
