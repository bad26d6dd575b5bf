#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <functional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "proto/state.pb.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/version.h"
#include "sandbox/manager_fixture.h"
#include "sandbox/records.h"
#include "sandbox/testing_node.h"

// Daemon, supervisors and records of different versions meet.
namespace davit::sandbox {
namespace {

using supervisor::v1::FromSupervisor;
using supervisor::v1::ToSupervisor;
using testing::Node;
using testing::ReadAll;

class ManagerVersionsTest : public testing::ManagerFixture {
 protected:
  ManagerVersionsTest() { Start(); }
  std::string Pod(const std::string& name) { return MustRun(node_.HostPod(name)); }
  std::string Run(const std::string& pod, const std::string& name, const std::string& script) {
    return MustRun(node_.Container(pod, name, {"/bin/sh", "-c", script}));
  }
  bool Reported(absl::string_view text) const {
    return absl::StrContains(absl::StrJoin(node_.reports(), "\n"), text);
  }
  std::string PodDirectory(const std::string& pod) {
    return absl::StrCat(node_.options().state, "/pods/", pod);
  }
  // From the next start on, davit-pod is another program.
  void InstallOtherProgram(int number) {
    const std::string path = absl::StrCat(node_.root(), "/davit-pod.", number);
    std::ofstream(path) << ReadAll("sandbox/supervisor/davit-pod") << "build " << number;
    ASSERT_EQ(chmod(path.c_str(), 0755), 0);
    node_.options().supervisor = path;
  }
  bool RunsProgram(const std::string& pod, const std::string& path) {
    const int pid = (*node_->FindPod(pod))->pid;
    return ReadAll(absl::StrCat("/proc/", pid, "/exe")) == ReadAll(path);
  }
};

TEST_F(ManagerVersionsTest, ARestartedManagerUpgradesTheSupervisorsThatItFinds) {
  const std::string pod = Pod("upgraded"), other = Pod("other");
  const std::string running = Run(pod, "running", "while :; do echo tick; sleep 0.01; done");
  const ContainerView before = *View(running);
  const int supervisor = (*node_->FindPod(pod))->pid;
  for (int round = 1; round <= 3; ++round) {
    InstallOtherProgram(round);
    ASSERT_TRUE(node_.Restart().ok());
    for (const std::string& each : {pod, other}) {
      ASSERT_TRUE(Node::Await([&] { return RunsProgram(each, node_.options().supervisor); }));
    }
    EXPECT_EQ((*node_->FindPod(pod))->pid, supervisor);
    EXPECT_EQ(View(running)->pid, before.pid);
    EXPECT_EQ(View(running)->state, ContainerState::kRunning);
    EXPECT_EQ(node_.Exec(running, {"/bin/echo", "works"})->out, "works\n");
  }
  EXPECT_TRUE(Node::Await([&] {
    return Reported(absl::StrCat("upgrade the supervisor of pod ", pod, " from davit-pod ",
                                 sys::Version(), " to davit-pod ", sys::Version(), ": done"));
  }));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  EXPECT_TRUE(node_.RemovePod(other).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerVersionsTest, UpgradesCanBeSwitchedOffAndOnAgain) {
  const std::string pod = Pod("kept");
  const std::string running = Run(pod, "running", "sleep 1000");
  const std::string old = node_.options().supervisor;
  InstallOtherProgram(1);
  node_.options().upgrade_supervisors = false;
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ(node_.Exec(running, {"/bin/echo", "works"})->out, "works\n");
  EXPECT_TRUE(RunsProgram(pod, old));
  // Behind a creation that is under way, not amid it.
  const std::string created = Run(pod, "created", "sleep 1000");
  node_->SetUpgradeSupervisors(true);
  const std::string later = Run(pod, "later", "sleep 1000");
  ASSERT_TRUE(Node::Await([&] { return RunsProgram(pod, node_.options().supervisor); }));
  for (const std::string& id : {running, created, later}) {
    EXPECT_EQ(node_.Exec(id, {"/bin/echo", "works"})->out, "works\n");
  }
}

TEST_F(ManagerVersionsTest, AProgramThatCannotTakeOverIsReportedAndThePodGoesOn) {
  const std::string pod = Pod("stays");
  const std::string running = Run(pod, "running", "sleep 1000");
  node_.options().supervisor = "/bin/true";
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(Node::Await([&] {
    return Reported("the new program is no davit-pod that can take the place of another");
  }));
  EXPECT_EQ(node_.Exec(running, {"/bin/echo", "works"})->out, "works\n");
}

// A process that answers in a supervisor's place, until it goes out of scope.
class Impostor {
 public:
  using Answer = std::function<void(const ToSupervisor&, supervisor::v1::Reply*)>;
  Impostor(const std::string& pod_directory, const Answer& answer)
      : socket_(pod_directory + "/supervisor.sock") {
    EXPECT_EQ(rename(socket_.c_str(), (socket_ + ".true").c_str()), 0);
    auto listener = sys::SeqpacketListen(socket_, 4);
    EXPECT_TRUE(listener.ok()) << listener.status();
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) {
      sys::UniqueFd client(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
      for (;;) {
        auto packet = sys::ReceivePacket(client.get());
        ToSupervisor request;
        if (!packet.ok() || !request.ParseFromString(packet->data)) break;
        FromSupervisor message;
        message.mutable_reply()->set_request_id(request.request_id());
        answer(request, message.mutable_reply());
        sys::SendPacket(client.get(), message.SerializeAsString(), {}).IgnoreError();
      }
    }
  }
  ~Impostor() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    EXPECT_EQ(rename((socket_ + ".true").c_str(), socket_.c_str()), 0);
  }

 private:
  const std::string socket_;
  pid_t pid_ = 0;
};

void Refuse(absl::StatusCode code, const std::string& why, supervisor::v1::Reply* reply) {
  reply->mutable_error()->set_code(static_cast<int>(code));
  reply->mutable_error()->set_message(why);
}

TEST_F(ManagerVersionsTest, AProtocolThatIsNotSpokenIsAnErrorWithBothVersions) {
  node_.options().trust_any_supervisor = true;
  const std::string pod = Pod("foreign");
  node_.StopManager();
  {
    Impostor impostor(PodDirectory(pod),
                      [&](const ToSupervisor& request, supervisor::v1::Reply* reply) {
                        if (!request.has_hello())
                          return Refuse(absl::StatusCode::kUnimplemented, "never", reply);
                        reply->mutable_hello()->set_sandbox_id(pod);
                        reply->mutable_hello()->set_protocol_version(99);
                        reply->mutable_hello()->set_oldest_protocol_version(98);
                        reply->mutable_hello()->set_version("9.9");
                      });
    ASSERT_TRUE(node_.Restart().ok());
    EXPECT_TRUE(Reported(absl::StrCat("davitd ", sys::Version(), " speaks the versions 1 to 2")));
    EXPECT_TRUE(Reported("(davit-pod 9.9) 98 to 99; upgrading it failed: never"));
    EXPECT_EQ(node_->ListPods().size(), 1u) << "and the pod is listed";
    node_.StopManager();
  }
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kReady);
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

TEST_F(ManagerVersionsTest, AnUpgradedSupervisorOfAForeignProtocolIsAskedAgain) {
  node_.options().trust_any_supervisor = true;
  const std::string pod = Pod("foreign");
  node_.StopManager();
  {
    auto upgraded = std::make_shared<bool>(false);
    Impostor impostor(PodDirectory(pod), [pod, upgraded](const ToSupervisor& request,
                                                         supervisor::v1::Reply* reply) {
      if (request.has_upgrade()) *upgraded = true;
      auto* hello = request.has_upgrade() ? reply->mutable_upgrade()->mutable_hello()
                                          : reply->mutable_hello();
      hello->set_sandbox_id(pod);
      hello->set_protocol_version(*upgraded ? 2 : 99);
      hello->set_oldest_protocol_version(*upgraded ? 1 : 98);
      hello->set_program_id("new");
    });
    node_.options().upgrade_supervisors = false;
    ASSERT_TRUE(node_.Restart().ok());
    EXPECT_FALSE(Reported("does not answer yet")) << absl::StrJoin(node_.reports(), "\n");
    node_.StopManager();
  }
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

TEST_F(ManagerVersionsTest, APlanThatTheSupervisorDoesNotExecuteIsNotSent) {
  node_.options().trust_any_supervisor = true;
  const std::string pod = Pod("plans");
  node_.StopManager();
  {
    Impostor impostor(
        PodDirectory(pod), [&](const ToSupervisor& request, supervisor::v1::Reply* reply) {
          if (!request.has_hello()) {
            return Refuse(absl::StatusCode::kFailedPrecondition, "cannot take over", reply);
          }
          reply->mutable_hello()->set_sandbox_id(pod);
          reply->mutable_hello()->set_protocol_version(2);
          reply->mutable_hello()->set_plan_version(77);
          reply->mutable_hello()->set_version("9.9");
        });
    ASSERT_TRUE(node_.Restart().ok());
    const auto created = node_->CreateContainer(node_.Container(pod, "c", {"/bin/true"}));
    EXPECT_EQ(created.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_TRUE(
        absl::StrContains(created.status().message(),
                          absl::StrCat("davitd ", sys::Version(), " makes plans of version")))
        << created.status();
    EXPECT_TRUE(
        absl::StrContains(created.status().message(), "(davit-pod 9.9) executes version 77"))
        << created.status();
    EXPECT_TRUE(absl::StrContains(created.status().message(), "cannot take over"));
    node_.StopManager();
  }
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
}

// ---- records

template <typename Record>
void AddUnknownField(Record* record) {
  // Field 1000, a string.
  std::string bytes = record->SerializeAsString() + "\xc2\x3e\x05later";
  ASSERT_TRUE(record->ParseFromString(bytes));
}

TEST_F(ManagerVersionsTest, AContainerWhoseRecordIsNewerRunsOnAndItsRecordIsKept) {
  const std::string pod = Pod("newer");
  const std::string id = Run(pod, "c", "while :; do echo tick; sleep 0.01; done");
  const std::string ended = Run(pod, "ended", "exit 6");
  node_.AwaitExit(ended);
  const int pid = View(id)->pid;
  const std::string upper = View(id)->upper_dir, log = View(id)->log_path;
  const std::string directory = absl::StrCat(PodDirectory(pod), "/containers/", id);
  node_.StopManager();
  for (const std::string& each : {id, ended}) {
    const std::string path = absl::StrCat(PodDirectory(pod), "/containers/", each);
    auto record = ReadContainerRecord(path);
    ASSERT_TRUE(record.ok());
    record->set_format_version(99);
    AddUnknownField(&*record);
    ASSERT_TRUE(WriteContainerRecord(path, *record).ok());
  }
  const std::string bytes = ReadAll(directory + "/record");
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(Reported(absl::StrCat("the record of container ", id, " has format 99")));
  EXPECT_EQ(View(id)->state, ContainerState::kRunning) << "as its supervisor says";
  EXPECT_EQ(View(id)->pid, pid);
  EXPECT_EQ(View(id)->metadata->Serialize(), "container c");
  EXPECT_EQ(View(ended)->exit_code, 6);
  EXPECT_EQ(kill(pid, 0), 0);
  EXPECT_EQ(access(upper.c_str(), F_OK), 0);
  EXPECT_EQ(ReadAll(directory + "/record"), bytes);
  const size_t size = ReadAll(log).size();
  EXPECT_TRUE(Node::Await([&] { return ReadAll(log).size() > size; }));
  EXPECT_EQ(node_.Exec(id, {"/bin/echo", "works"})->out, "works\n");
  // What is asked for is done.
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerVersionsTest, AContainerOfWhoseRecordNothingCanBeReadRunsOn) {
  const std::string pod = Pod("unreadable");
  const std::string id = Run(pod, "c", "sleep 1000");
  const int pid = View(id)->pid;
  const std::string upper = View(id)->upper_dir;
  const std::string path = absl::StrCat(PodDirectory(pod), "/containers/", id, "/record");
  node_.StopManager();
  std::string bytes = ReadAll(path);
  bytes[8] = 99;  // the frame's version
  std::ofstream(path) << bytes;
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(Reported(absl::StrCat("container ", id, " is left alone: ")));
  EXPECT_TRUE(Reported("has format 99, written by a newer davitd"));
  EXPECT_EQ(kill(pid, 0), 0);
  EXPECT_EQ(View(id)->state, ContainerState::kRunning);
  EXPECT_EQ(access(upper.c_str(), F_OK), 0);
  EXPECT_EQ(ReadAll(path), bytes);
  // Without its supervisor nobody knows how it is: that is said, and nothing is done.
  EXPECT_TRUE(node_.StopContainer(id, absl::ZeroDuration()).ok());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerVersionsTest, APodWhoseRecordIsNewerIsListedAndWhatIsNewInItIsKept) {
  const std::string pod = Pod("newer");
  const std::string id = Run(pod, "c", "sleep 1000");
  const std::string directory = PodDirectory(pod);
  node_.StopManager();
  auto record = ReadPodRecord(directory);
  ASSERT_TRUE(record.ok());
  record->set_format_version(99);
  AddUnknownField(&*record);
  ASSERT_TRUE(WritePodRecord(directory, *record).ok());
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(Reported(absl::StrCat("the record of pod ", pod, " has format 99")));
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kReady);
  EXPECT_EQ(View(id)->state, ContainerState::kRunning);
  ASSERT_TRUE(node_.StopPod(pod).ok());
  EXPECT_EQ(ReadPodRecord(directory).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(absl::StrContains(ReadAll(directory + "/record"), "later"));
  EXPECT_FALSE(ReadPodRecord(directory, Newer::kTake)->ready());
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  ExpectNothingLeft();
}

TEST_F(ManagerVersionsTest, APodOfWhoseRecordNothingCanBeReadIsLeftAlone) {
  const std::string pod = Pod("newer");
  const std::string id = Run(pod, "c", "sleep 1000");
  const int pid = View(id)->pid;
  const std::string upper = View(id)->upper_dir;
  const std::string path = PodDirectory(pod) + "/record";
  node_.StopManager();
  const std::string good = ReadAll(path);
  std::string bytes = good;
  bytes[8] = 99;
  std::ofstream(path) << bytes;
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_TRUE(node_->ListPods().empty());
  EXPECT_TRUE(Reported(absl::StrCat("pod ", pod, " is left alone")));
  EXPECT_EQ(kill(pid, 0), 0);
  EXPECT_EQ(access(upper.c_str(), F_OK), 0) << "what its containers write to is in use";
  node_.StopManager();
  std::ofstream(path) << good;
  ASSERT_TRUE(node_.Restart().ok());
  EXPECT_EQ((*node_->FindPod(pod))->state, PodState::kReady);
}

}  // namespace
}  // namespace davit::sandbox
