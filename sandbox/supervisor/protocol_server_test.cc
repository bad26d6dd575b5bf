#include "sandbox/supervisor/protocol_server.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::FromSupervisor;
using supervisor::v1::Reply;
using supervisor::v1::ToSupervisor;

class ProtocolServerTest : public ::testing::Test, public ProtocolServer::Handler {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-server-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    dir_ = pattern;
    loop_ = *EventLoop::Create();
    auto pair = *sys::SeqpacketPair();
    peer_ = std::move(pair.first);
    auto server =
        ProtocolServer::Start(loop_.get(), this, dir_ + "/socket", std::move(pair.second));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  void TearDown() override {
    server_.reset();
    EXPECT_NE(access((dir_ + "/socket").c_str(), F_OK), 0);
    EXPECT_EQ(rmdir(dir_.c_str()), 0);
  }

  void OnRequest(ProtocolServer::ConnectionId connection, const ToSupervisor& request,
                 std::vector<sys::UniqueFd> fds) override {
    requests_.push_back(request);
    connections_.push_back(connection);
    fds_ = fds.size();
    if (answer_) {
      Reply reply;
      reply.set_request_id(request.request_id());
      server_->Reply(connection, reply);
    }
  }
  void OnDisconnected(ProtocolServer::ConnectionId connection) override {
    disconnected_.push_back(connection);
  }

  static void Send(const sys::UniqueFd& peer, const ToSupervisor& request,
                   std::vector<int> fds = {}) {
    ASSERT_TRUE(sys::SendPacket(peer.get(), request.SerializeAsString(), fds).ok());
  }
  static ToSupervisor Hello(uint64_t id) {
    ToSupervisor request;
    request.set_request_id(id);
    request.mutable_hello();
    return request;
  }
  void Turn() { loop_->RunOnce(absl::Milliseconds(100)); }
  static FromSupervisor Receive(const sys::UniqueFd& peer) {
    auto packet = sys::ReceivePacket(peer.get());
    FromSupervisor message;
    EXPECT_TRUE(packet.ok()) << packet.status();
    EXPECT_TRUE(packet.ok() && message.ParseFromString(packet->data));
    return message;
  }
  static bool Closed(const sys::UniqueFd& peer) {
    fcntl(peer.get(), F_SETFL, O_NONBLOCK);
    for (;;) {
      auto packet = sys::ReceivePacket(peer.get());
      if (packet.ok()) continue;
      return absl::IsOutOfRange(packet.status());
    }
  }

  std::string dir_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<ProtocolServer> server_;
  sys::UniqueFd peer_;
  std::vector<ToSupervisor> requests_;
  std::vector<ProtocolServer::ConnectionId> connections_, disconnected_;
  size_t fds_ = 0;
  bool answer_ = true;
};

TEST_F(ProtocolServerTest, RequestsComeWithTheirDescriptorsAndAreAnswered) {
  Send(peer_, Hello(5), {0, 1});
  Turn();
  ASSERT_EQ(requests_.size(), 1u);
  EXPECT_EQ(fds_, 2u);
  EXPECT_EQ(Receive(peer_).reply().request_id(), 5u);
}

TEST_F(ProtocolServerTest, NothingIsServedBeforeHello) {
  ToSupervisor request;
  request.set_request_id(1);
  request.mutable_shutdown();
  Send(peer_, request);
  Turn();
  EXPECT_TRUE(requests_.empty());
  EXPECT_EQ(Receive(peer_).reply().error().code(),
            static_cast<int>(absl::StatusCode::kFailedPrecondition));
}

TEST_F(ProtocolServerTest, ANewConnectionTakesThePlaceOfTheOld) {
  Send(peer_, Hello(1));
  Turn();
  sys::UniqueFd second = *sys::SeqpacketConnect(dir_ + "/socket");
  Send(second, Hello(1));
  Turn();
  Turn();
  ASSERT_EQ(requests_.size(), 2u);
  EXPECT_EQ(disconnected_, (std::vector<ProtocolServer::ConnectionId>{connections_[0]}));
  EXPECT_TRUE(Closed(peer_));
  // An answer to the old one's request does not reach the new one.
  Reply late;
  late.set_request_id(99);
  server_->Reply(connections_[0], late);
  EXPECT_EQ(Receive(second).reply().request_id(), 1u);
  fcntl(second.get(), F_SETFL, O_NONBLOCK);
  EXPECT_TRUE(absl::IsUnavailable(sys::ReceivePacket(second.get()).status()));
}

TEST_F(ProtocolServerTest, EventsGoToWhoeverHasSaidHello) {
  FromSupervisor event;
  event.mutable_out_of_memory()->set_container_id("c");
  server_->SendEvent(event);  // nobody yet
  Send(peer_, Hello(1));
  Turn();
  server_->SendEvent(event);
  EXPECT_TRUE(Receive(peer_).has_reply());
  EXPECT_EQ(Receive(peer_).out_of_memory().container_id(), "c");
}

TEST_F(ProtocolServerTest, GarbageEndsTheConnection) {
  ASSERT_TRUE(sys::SendPacket(peer_.get(), "\xff\xff\xff", {}).ok());
  Turn();
  EXPECT_EQ(disconnected_.size(), 1u);
  EXPECT_TRUE(Closed(peer_));
}

TEST_F(ProtocolServerTest, AHangupIsNoticedAndTheSocketStillServes) {
  peer_.reset();
  Turn();
  EXPECT_EQ(disconnected_.size(), 1u);
  sys::UniqueFd second = *sys::SeqpacketConnect(dir_ + "/socket");
  Send(second, Hello(3));
  Turn();
  Turn();
  EXPECT_EQ(Receive(second).reply().request_id(), 3u);
}

TEST_F(ProtocolServerTest, ASlowPeerGetsEverythingInOrder) {
  Send(peer_, Hello(1));
  Turn();
  EXPECT_TRUE(Receive(peer_).has_reply());
  constexpr int kEvents = 2000;  // more than the socket holds
  for (int i = 0; i < kEvents; ++i) {
    FromSupervisor event;
    event.mutable_exec_exited()->set_exec_id(absl::StrCat(i));
    server_->SendEvent(event);
  }
  for (int i = 0; i < kEvents; ++i) {
    ASSERT_EQ(Receive(peer_).exec_exited().exec_id(), absl::StrCat(i));
    loop_->RunOnce(absl::ZeroDuration());
  }
  EXPECT_TRUE(disconnected_.empty());
}

TEST_F(ProtocolServerTest, APeerThatDoesNotReadIsDropped) {
  Send(peer_, Hello(1));
  Turn();
  for (int i = 0; i < 20000; ++i) {
    FromSupervisor event;
    event.mutable_exec_exited()->set_exec_id(absl::StrCat(i));
    server_->SendEvent(event);
  }
  for (int i = 0; i < 10 && disconnected_.empty(); ++i) Turn();
  EXPECT_EQ(disconnected_.size(), 1u);
}

TEST_F(ProtocolServerTest, FinishSendingWaitsForTheLastAnswer) {
  Send(peer_, Hello(1));
  Turn();
  EXPECT_TRUE(Receive(peer_).has_reply());
  int events = 0;
  for (; events < 1500; ++events) {
    FromSupervisor event;
    event.mutable_exec_exited()->set_exec_id("x");
    server_->SendEvent(event);
  }
  bool finished = false;
  server_->FinishSending([&] { finished = true; });
  EXPECT_FALSE(finished);
  for (int i = 0; i < events; ++i) {
    EXPECT_TRUE(Receive(peer_).has_exec_exited());
    loop_->RunOnce(absl::ZeroDuration());
  }
  EXPECT_TRUE(finished);
}

}  // namespace
}  // namespace davit::sandbox
