#include "sandbox/supervisor_client.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/spawn.h"
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
  static ToSupervisor ExecInTerminal() {
    ToSupervisor request;
    request.mutable_exec()->set_exec_id("e");
    request.mutable_exec()->set_tty(true);
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
    if (request.has_start_container()) message.mutable_reply()->mutable_start_container();
    return message;
  }
  // The connection has been ended because of what the supervisor sent.
  void ExpectEnded() {
    closed_seen_.WaitForNotification();
    EXPECT_EQ(closed_.code(), absl::StatusCode::kDataLoss) << closed_;
    EXPECT_FALSE(client_->connected());
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
  client_->Call(ExecInTerminal(), fds, absl::InfiniteDuration(), call.Callback());
  std::vector<sys::UniqueFd> received;
  FromSupervisor reply = ReplyTo(Receive(&received));
  ASSERT_EQ(received.size(), 1u);
  EXPECT_EQ(*sys::ReadFd(received[0].get(), 100, "plan"), "the plan");
  const sys::UniqueFd terminal(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(terminal.ok());
  const int back[] = {terminal.get()};
  reply.mutable_reply()->mutable_exec();
  Send(reply, back);
  call.done.WaitForNotification();
  ASSERT_TRUE(call.answer->ok()) << call.answer->status();
  EXPECT_EQ((*call.answer)->fds.size(), 1u);
}

TEST_F(SupervisorClientTest, TheSupervisorsErrorComesWithItsCodeAndSentence) {
  PendingCall call;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), call.Callback());
  FromSupervisor reply = ReplyTo(Receive());
  reply.mutable_reply()->clear_result();
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
  client_->ExpectExec("e", [&](const absl::StatusOr<supervisor::v1::ExecExited>& exited) {
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
  ExpectEnded();
}

TEST_F(SupervisorClientTest, AMessageThatIsCutShortEndsTheConnection) {
  FromSupervisor event;
  event.mutable_container_exited()->mutable_state()->set_container_id("a container's id");
  const std::string whole = event.SerializeAsString();
  ASSERT_TRUE(sys::SendPacket(peer_.get(), whole.substr(0, whole.size() - 3), {}).ok());
  ExpectEnded();
}

TEST_F(SupervisorClientTest, APacketThatIsTooLargeEndsTheConnection) {
  const std::string large(sys::kMaxPacket + 1, '\n');
  ASSERT_EQ(send(peer_.get(), large.data(), large.size(), 0), static_cast<ssize_t>(large.size()));
  ExpectEnded();
}

TEST_F(SupervisorClientTest, AnEmptyPacketEndsTheConnection) {
  ASSERT_EQ(send(peer_.get(), "", 0, 0), 0);
  closed_seen_.WaitForNotification();
  EXPECT_FALSE(client_->connected());
}

TEST_F(SupervisorClientTest, AReplyOfAnotherKindEndsTheConnectionAndFailsTheCall) {
  PendingCall call;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), call.Callback());
  FromSupervisor reply = ReplyTo(Receive());
  reply.mutable_reply()->mutable_exec();
  Send(reply);
  call.done.WaitForNotification();
  EXPECT_TRUE(absl::IsUnavailable(call.answer->status()));
  ExpectEnded();
}

TEST_F(SupervisorClientTest, AReplyWithoutItsResultEndsTheConnection) {
  PendingCall call;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), call.Callback());
  FromSupervisor reply = ReplyTo(Receive());
  reply.mutable_reply()->clear_result();
  Send(reply);
  ExpectEnded();
}

TEST_F(SupervisorClientTest, AReplyToWhatWasNeverAskedEndsTheConnection) {
  FromSupervisor reply;
  reply.mutable_reply()->set_request_id(4711);
  Send(reply);
  ExpectEnded();
}

TEST_F(SupervisorClientTest, DescriptorsThatNobodyAskedForEndTheConnectionAndAreClosed) {
  auto pair = sys::SeqpacketPair();
  PendingCall call;
  client_->Call(Start("a"), {}, absl::InfiniteDuration(), call.Callback());
  const int fds[] = {pair->first.get()};
  Send(ReplyTo(Receive()), fds);
  ExpectEnded();
  pair->first.reset();
  // The last copy is gone.
  EXPECT_EQ(sys::ReceivePacket(pair->second.get()).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_F(SupervisorClientTest, AnEventWithDescriptorsEndsTheConnection) {
  FromSupervisor event;
  event.mutable_out_of_memory()->set_container_id("c");
  const int fds[] = {STDERR_FILENO};
  Send(event, fds);
  ExpectEnded();
}

TEST_F(SupervisorClientTest, ATerminalThatIsNoneOrMissingEndsTheConnection) {
  PendingCall call;
  client_->Call(ExecInTerminal(), {}, absl::InfiniteDuration(), call.Callback());
  FromSupervisor reply = ReplyTo(Receive());
  reply.mutable_reply()->mutable_exec();
  const auto file = sys::SealedMemfd("file", "no terminal");
  const int fds[] = {file->get()};
  Send(reply, fds);
  call.done.WaitForNotification();
  EXPECT_TRUE(absl::IsUnavailable(call.answer->status()));
  ExpectEnded();
}

TEST_F(SupervisorClientTest, PidfdsComeWithAHelloReplyAndOtherFilesEndTheConnection) {
  const auto pidfd = sys::PidfdOpen(getpid());
  for (const int fd : {pidfd->get(), STDERR_FILENO}) {
    PendingCall call;
    ToSupervisor hello;
    hello.mutable_hello();
    client_->Call(std::move(hello), {}, absl::InfiniteDuration(), call.Callback());
    FromSupervisor reply;
    reply.mutable_reply()->set_request_id(Receive().request_id());
    reply.mutable_reply()->mutable_hello()->add_containers();
    reply.mutable_reply()->mutable_hello()->add_pidfd_of(0);
    const int fds[] = {fd};
    Send(reply, fds);
    call.done.WaitForNotification();
    EXPECT_EQ(call.answer->ok(), fd == pidfd->get());
  }
  ExpectEnded();
}

TEST_F(SupervisorClientTest, ASupervisorThatNeverStopsTalkingDoesNotKeepTheLoop) {
  std::atomic<bool> stop = false;
  std::thread talker([&] {
    FromSupervisor event;
    event.mutable_exec_exited()->set_exec_id("unknown");
    const std::string bytes = event.SerializeAsString();
    while (!stop && sys::SendPacket(peer_.get(), bytes, {}).ok()) {
    }
  });
  for (int i = 0; i < 20; ++i) {
    Notification turn;
    loop_->Post([&] { turn.Notify(); });
    turn.WaitForNotification();
  }
  stop = true;
  client_->Close();
  talker.join();
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
