#include "sandbox/supervisor_client.h"

#include <unistd.h>

#include <optional>
#include <utility>

#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "sandbox/notification.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::FromSupervisor;
using supervisor::v1::ToSupervisor;
using Answer = SupervisorClient::Answer;

class SupervisorClientTest : public ::testing::Test {
 protected:
  SupervisorClientTest() {
    loop_ = *IoLoop::Start();
    auto pair = sys::SeqpacketPair();
    peer_ = std::move(pair->second);
    SupervisorClient::Listener listener;
    listener.event = [this](const FromSupervisor& event) {
      event_ = event;
      event_seen_.Notify();
    };
    listener.closed = [this](const absl::Status& status) {
      closed_ = status;
      closed_seen_.Notify();
    };
    client_ = *SupervisorClient::Start(loop_.get(), std::move(pair->first), std::move(listener));
  }
  ~SupervisorClientTest() override {
    client_->Close();
    loop_->Stop();
  }

  static ToSupervisor Start(const std::string& id) {
    ToSupervisor request;
    request.mutable_start_container()->set_container_id(id);
    return request;
  }
  ToSupervisor Receive(std::vector<sys::UniqueFd>* fds = nullptr) {
    auto packet = sys::ReceivePacket(peer_.get());
    EXPECT_TRUE(packet.ok()) << packet.status();
    ToSupervisor request;
    EXPECT_TRUE(request.ParseFromString(packet->data));
    if (fds != nullptr) *fds = std::move(packet->fds);
    return request;
  }
  void Send(const FromSupervisor& message, std::span<const int> fds = {}) {
    ASSERT_TRUE(sys::SendPacket(peer_.get(), message.SerializeAsString(), fds).ok());
  }
  static FromSupervisor ReplyTo(const ToSupervisor& request) {
    FromSupervisor message;
    message.mutable_reply()->set_request_id(request.request_id());
    return message;
  }

  std::unique_ptr<IoLoop> loop_;
  sys::UniqueFd peer_;
  std::shared_ptr<SupervisorClient> client_;
  FromSupervisor event_;
  Notification event_seen_, closed_seen_;
  absl::Status closed_;
};

// A call whose answer can be awaited.
struct PendingCall {
  Notification done;
  std::optional<absl::StatusOr<Answer>> answer;
  SupervisorClient::Callback Callback() {
    return [this](absl::StatusOr<Answer> got) {
      answer.emplace(std::move(got));
      done.Notify();
    };
  }
};

TEST_F(SupervisorClientTest, RepliesFindTheirCallsInWhateverOrderTheyCome) {
  PendingCall first, second;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), first.Callback());
  client_->Call(Start("b"), {}, absl::InfiniteDuration(), second.Callback());
  const ToSupervisor a = Receive(), b = Receive();
  EXPECT_NE(a.request_id(), b.request_id());
  FromSupervisor reply = ReplyTo(b);
  reply.mutable_reply()->mutable_start_container()->set_started_at(2);
  Send(reply);
  second.done.WaitForNotification();
  EXPECT_FALSE(first.done.HasBeenNotified());
  EXPECT_EQ((*second.answer)->reply.start_container().started_at(), 2);
  Send(ReplyTo(a));
  first.done.WaitForNotification();
  EXPECT_TRUE(first.answer->ok());
}

TEST_F(SupervisorClientTest, DescriptorsTravelBothWays) {
  auto plan = sys::SealedMemfd("plan", "the plan");
  PendingCall call;
  const int fds[] = {plan->get()};
  client_->Call(Start("a"), fds, absl::InfiniteDuration(), call.Callback());
  std::vector<sys::UniqueFd> received;
  const ToSupervisor request = Receive(&received);
  ASSERT_EQ(received.size(), 1u);
  EXPECT_EQ(*sys::ReadFd(received[0].get(), 100, "plan"), "the plan");
  const int back[] = {received[0].get()};
  Send(ReplyTo(request), back);
  call.done.WaitForNotification();
  EXPECT_EQ((*call.answer)->fds.size(), 1u);
}

TEST_F(SupervisorClientTest, TheSupervisorsErrorComesWithItsCodeAndSentence) {
  PendingCall call;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), call.Callback());
  FromSupervisor reply = ReplyTo(Receive());
  reply.mutable_reply()->mutable_error()->set_code(
      static_cast<int>(absl::StatusCode::kPermissionDenied));
  reply.mutable_reply()->mutable_error()->set_message("mount /x: not permitted");
  Send(reply);
  call.done.WaitForNotification();
  EXPECT_EQ(call.answer->status(), absl::PermissionDeniedError("mount /x: not permitted"));
}

TEST_F(SupervisorClientTest, ACallThatIsNotAnsweredInTimeEndsAndItsLateReplyIsDropped) {
  PendingCall late;
  client_->Call(Start("a"), {}, absl::Milliseconds(10), late.Callback());
  const ToSupervisor request = Receive();
  late.done.WaitForNotification();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.answer->status()));
  Send(ReplyTo(request));
  PendingCall next;
  client_->Call(Start("b"), {}, absl::InfiniteDuration(), next.Callback());
  Send(ReplyTo(Receive()));
  next.done.WaitForNotification();
  EXPECT_TRUE(next.answer->ok()) << "the connection goes on";
}

TEST_F(SupervisorClientTest, EventsReachTheListener) {
  FromSupervisor event;
  event.mutable_container_exited()->mutable_state()->set_container_id("c");
  Send(event);
  event_seen_.WaitForNotification();
  EXPECT_EQ(event_.container_exited().state().container_id(), "c");
}

TEST_F(SupervisorClientTest, AnExecsEndReachesWhoExpectsIt) {
  Notification done;
  client_->ExpectExec("e1", [&](absl::StatusOr<supervisor::v1::ExecExited> exited) {
    EXPECT_EQ(exited->wait_status(), 256);
    done.Notify();
  });
  FromSupervisor other, event;
  other.mutable_exec_exited()->set_exec_id("unknown");
  Send(other);
  event.mutable_exec_exited()->set_exec_id("e1");
  event.mutable_exec_exited()->set_wait_status(256);
  Send(event);
  done.WaitForNotification();
}

TEST_F(SupervisorClientTest, WhenThePeerGoesEverythingPendingFailsAndTheListenerIsTold) {
  PendingCall call;
  Notification exec_failed;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), call.Callback());
  client_->ExpectExec("e", [&](absl::StatusOr<supervisor::v1::ExecExited> exited) {
    EXPECT_TRUE(absl::IsUnavailable(exited.status()));
    exec_failed.Notify();
  });
  Receive();
  peer_.reset();
  call.done.WaitForNotification();
  exec_failed.WaitForNotification();
  EXPECT_TRUE(absl::IsUnavailable(call.answer->status()));
  closed_seen_.WaitForNotification();
  EXPECT_FALSE(client_->connected());
  EXPECT_TRUE(
      absl::IsUnavailable(client_->CallAndWait(Start("b"), {}, absl::InfiniteDuration()).status()));
}

TEST_F(SupervisorClientTest, GarbageEndsTheConnection) {
  ASSERT_TRUE(sys::SendPacket(peer_.get(), "\xff\xff\xff", {}).ok());
  closed_seen_.WaitForNotification();
  EXPECT_EQ(closed_.code(), absl::StatusCode::kDataLoss);
}

TEST_F(SupervisorClientTest, CloseFailsPendingCallsButDoesNotTellTheListener) {
  PendingCall call;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), call.Callback());
  client_->Close();
  call.done.WaitForNotification();
  EXPECT_TRUE(absl::IsUnavailable(call.answer->status()));
  Notification drained;
  loop_->Post([&] { drained.Notify(); });
  drained.WaitForNotification();
  EXPECT_FALSE(closed_seen_.HasBeenNotified());
}

}  // namespace
}  // namespace davit::sandbox
