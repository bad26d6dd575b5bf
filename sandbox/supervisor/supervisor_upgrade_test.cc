#include <dirent.h>
#include <sys/mman.h>

#include <memory>
#include <random>

#include "sandbox/supervisor/supervisor_fixture.h"

// A supervisor's program is replaced in place, and nothing of the pod notices.
namespace davit::sandbox {
namespace {

class UpgradeTest : public SupervisorTest {
 protected:
  // The program, and a build that differs from it in nothing but its bytes.
  static std::string Program(int number) {
    return absl::StrCat(ReadFile("sandbox/supervisor/davit-pod"), "build ", number);
  }

  uint64_t SendUpgrade(const std::string& program, const std::string& id, uint32_t patience_ms = 0,
                       bool sealed = true) {
    sys::UniqueFd memfd(memfd_create("program", MFD_CLOEXEC));
    if (sealed) memfd = sys::SealedMemfd("program", program).value();
    if (!sealed) sys::WriteAll(memfd.get(), program, "program").IgnoreError();
    return SendRequest(
        [&](ToSupervisor* request) {
          request->mutable_upgrade()->set_program_id(id);
          request->mutable_upgrade()->set_patience_ms(patience_ms);
        },
        {memfd.get()});
  }

  // Upgrades to the next build; the reply is from it.
  void Upgrade() {
    const std::string id = absl::StrCat("build ", ++build_);
    const Reply reply = AwaitReply(SendUpgrade(Program(build_), id, 20000));
    ASSERT_TRUE(reply.has_upgrade()) << reply.error().message();
    EXPECT_EQ(reply.upgrade().hello().program_id(), id);
    EXPECT_EQ(reply.upgrade().hello().pid(), pid_);
    EXPECT_EQ(reply.upgrade().hello().sandbox_id(), "pod1");
    hello_reply_ = Call([](ToSupervisor* request) {
                     request->mutable_hello()->set_protocol_version(1);
                   }).hello();
  }

  // Its descriptors, by what they are.
  std::vector<std::string> Descriptors() const {
    std::vector<std::string> links;
    const std::string path = absl::StrCat("/proc/", pid_, "/fd");
    std::unique_ptr<DIR, int (*)(DIR*)> dir(opendir(path.c_str()), closedir);
    if (dir == nullptr) return links;
    while (const dirent* entry = readdir(dir.get())) {
      char target[256] = {};
      if (readlinkat(dirfd(dir.get()), entry->d_name, target, sizeof target - 1) > 0) {
        links.push_back(absl::StrCat(target));
      }
    }
    std::sort(links.begin(), links.end());
    return links;
  }

  const ContainerState& State(const std::string& id) {
    for (const ContainerState& state : hello_reply_.containers()) {
      if (state.container_id() == id) return state;
    }
    ADD_FAILURE() << "no container " << id;
    static const ContainerState none;
    return none;
  }

  int build_ = 0;
  supervisor::v1::HelloReply hello_reply_;
};

// "stdout F <n>" for n = 0, 1, 2, ...; returns how many.
int Counted(const Lines& log) {
  for (size_t i = 0; i < log.size(); ++i) {
    if (log[i] != absl::StrCat("stdout F ", i)) {
      ADD_FAILURE() << "line " << i << " is " << log[i];
      return -1;
    }
  }
  return static_cast<int>(log.size());
}

TEST_F(UpgradeTest, ContainersInEveryStateGoOnUnderTheNewProgram) {
  StartPod([](PodConfig* config) { config->set_shared_pid_namespace(true); });
  const int init = hello_.hello().init_pid();
  const int running =
      Run("running",
          {.args = {"sh", "-c", "trap 'exit 42' TERM; echo up; while :; do sleep 0.05; done"}});
  const int shared = Run("shared", {.args = {"sleep", "1000"}, .share_pid = true});
  Run("exited", {.args = {"sh", "-c", "echo bye; exit 7"}});
  const ContainerState exited = AwaitExit("exited");
  ASSERT_FALSE(Create("created", {.args = {"sh", "-c", "echo late; exit 3"}}).has_error());
  ASSERT_FALSE(Create("broken", {.args = {"/no/such/command"}}).has_error());
  ASSERT_FALSE(Create("doomed", {.args = {"sleep", "1000"}}).has_error());
  const int tty = Run("tty", {.args = {"sh", "-c", "echo terminal; sleep 1000"}, .tty = true});
  Upgrade();
  Upgrade();
  EXPECT_EQ(hello_reply_.init_pid(), init);
  EXPECT_EQ(State("running").pid(), running);
  EXPECT_EQ(State("shared").pid(), shared);
  EXPECT_EQ(State("tty").pid(), tty);
  EXPECT_EQ(State("exited").SerializeAsString(), exited.SerializeAsString());
  EXPECT_EQ(State("created").phase(), ContainerState::CREATED);

  ASSERT_FALSE(Kill("running", SIGTERM).has_error());
  EXPECT_EQ(WEXITSTATUS(AwaitExit("running").wait_status()), 42);
  ASSERT_FALSE(Start("created").has_error());
  EXPECT_EQ(WEXITSTATUS(AwaitExit("created").wait_status()), 3);
  EXPECT_EQ(Log("created"), Lines{"stdout F late"});
  const Reply broken = Start("broken");
  EXPECT_EQ(broken.error().operation(), "exec");
  EXPECT_EQ(broken.error().error_number(), ENOENT);
  EXPECT_TRUE(absl::StrContains(broken.error().message(), "/no/such/command"))
      << broken.error().message();
  EXPECT_EQ(WEXITSTATUS(AwaitExit("broken").wait_status()), 128);
  ASSERT_FALSE(Kill("doomed", SIGKILL).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExit("doomed").wait_status()), SIGKILL);
  EXPECT_TRUE(absl::StrContains(Output("shared", {"ps"}), "davit-init"));
  EXPECT_EQ(Log("tty"), Lines{"stdout F terminal"});
  for (const char* id : {"running", "exited", "created", "broken", "doomed", "tty", "shared"}) {
    const Reply removed = Remove(id);
    EXPECT_FALSE(removed.has_error()) << id << ": " << removed.error().message();
  }
  EXPECT_TRUE(cgroups_.Children().empty()) << absl::StrJoin(cgroups_.Children(), " ");
}

TEST_F(UpgradeTest, ALogAtFullRateLosesNothingAndNoDescriptorLeaks) {
  StartPod();
  const std::string share = dir_ + "/share";
  ASSERT_EQ(mkdir(share.c_str(), 0777), 0);
  // Full lines, and every so often one that is printed in two pieces.
  Run("c1",
      {.args = {"sh", "-c",
                "i=0; while [ ! -e /data/end ]; do echo $i; i=$((i+1)); "
                "if [ $((i % 50)) = 0 ]; then echo -n $((i/10)); echo $((i%10)); i=$((i+1)); fi; "
                "done; exit 9"},
       .bind_source = share});
  ASSERT_TRUE(Eventually([&] { return Log("c1").size() > 100; }));
  Upgrade();
  // Until then it also has the program that it was started from.
  const auto before = Descriptors();
  for (int i = 0; i < 15; ++i) {
    Upgrade();
    const size_t lines = Log("c1").size();
    ASSERT_TRUE(Eventually([&] { return Log("c1").size() > lines; }));
  }
  const auto is_same = [&] { return Descriptors().size() == before.size(); };
  EXPECT_TRUE(Eventually(is_same))
      << absl::StrJoin(before, " ") << "\nnow: " << absl::StrJoin(Descriptors(), " ");
  std::ofstream(share + "/end").close();
  EXPECT_EQ(WEXITSTATUS(AwaitExit("c1").wait_status()), 9);
  EXPECT_GT(Counted(Log("c1")), 1000);
}

TEST_F(UpgradeTest, ARunningExecKeepsItsStreamsItsTimeAndItsExitCode) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Streams streams;
  ASSERT_FALSE(Exec("c1", "long",
                    {.args = {"sh", "-c", "echo a; read x < /tmp/fifo; echo b; exit 5"}}, &streams)
                   .has_error());
  ASSERT_FALSE(Exec("c1", "timed", {.args = {"sleep", "1000"}, .timeout_ms = 1500}).has_error());
  ASSERT_FALSE(
      Exec("c1", "cancelled", {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}}).has_error());
  // One that has left a process behind.
  ASSERT_FALSE(Exec("c1", "left", {.args = {"sh", "-c", "sleep 1000 &"}}).has_error());
  EXPECT_EQ(AwaitExecExit("left").wait_status(), 0);
  Upgrade();
  Upgrade();
  ASSERT_FALSE(Call([](ToSupervisor* r) {
                 r->mutable_cancel_exec()->set_exec_id("cancelled");
               }).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExecExit("cancelled").wait_status()), SIGKILL);
  EXPECT_TRUE(AwaitExecExit("timed").timed_out());
  ASSERT_FALSE(
      Exec("c1", "fifo", {.args = {"sh", "-c", "busybox mkfifo /tmp/fifo; echo > /tmp/fifo"}})
          .has_error());
  const auto ended = AwaitExecExit("long");
  // It may have failed to open a FIFO that was not there yet; either way the end is told truly.
  const std::string out = ReadAll(streams.out);
  EXPECT_TRUE(absl::StrContains(out, "a\n"));
  EXPECT_EQ(WEXITSTATUS(ended.wait_status()), absl::StrContains(out, "b") ? 5 : 1);
  Upgrade();
  EXPECT_FALSE(Remove("c1").has_error());
  EXPECT_TRUE(cgroups_.Children().empty()) << absl::StrJoin(cgroups_.Children(), " ");
}

TEST_F(UpgradeTest, ExitsAtAnyMomentOfAnUpgradeAreToldWithTheirCodesAndWholeLogs) {
  StartPod();
  constexpr int kContainers = 24;
  std::mt19937 random(1);
  for (int i = 0; i < kContainers; ++i) {
    const int ms = 20 + static_cast<int>(random() % 600);
    Run(absl::StrCat("c", i),
        {.args = {"sh", "-c",
                  absl::StrCat("echo begin; sleep 0.", absl::Dec(ms, absl::kZeroPad3),
                               "; echo end; exit ", i + 1)}});
  }
  for (int i = 0; i < 12; ++i) Upgrade();
  for (int i = 0; i < kContainers; ++i) {
    const std::string id = absl::StrCat("c", i);
    const ContainerState state = AwaitExit(id);
    EXPECT_EQ(WEXITSTATUS(state.wait_status()), i + 1);
    EXPECT_EQ(Record(id).SerializeAsString(), state.SerializeAsString());
    EXPECT_EQ(Log(id), (Lines{"stdout F begin", "stdout F end"}));
  }
}

TEST_F(UpgradeTest, AnOomKillAfterAnUpgradeIsTold) {
  StartPod();
  Run("c1", {.args = {"sh", "-c",
                      "while [ ! -e /data/go ]; do sleep 0.02; done; x=$(yes | head -c 200000000)"},
             .memory_limit = 16 << 20,
             .bind_source = dir_});
  Upgrade();
  std::ofstream(dir_ + "/go").close();
  EXPECT_TRUE(AwaitExit("c1").oom_killed());
}

TEST_F(UpgradeTest, AProgramThatCannotTakeOverChangesNothing) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "while :; do echo x; sleep 0.01; done"}});
  const auto refused = [&](const std::string& program, bool sealed, absl::string_view why) {
    const Reply reply = AwaitReply(SendUpgrade(program, "bad", 2000, sealed));
    EXPECT_TRUE(reply.has_error());
    EXPECT_TRUE(absl::StrContains(reply.error().message(), why)) << reply.error().message();
    const size_t lines = Log("c1").size();
    EXPECT_TRUE(Eventually([&] { return Log("c1").size() > lines; })) << "the log goes on";
    EXPECT_EQ(Output("c1", {"echo", "works"}), "works\n");
  };
  const std::string good = Program(0);
  refused(good, false, "no sealed memfd");
  refused("#!/bin/sh\nexit 0\n", true, "no davit-pod that can take the place");
  refused("davit-pod: can take over", true, "cannot be run");
  // The beginning of a program: it may be run, and dies.
  refused(good.substr(0, 100000) + "davit-pod: can take over", true, "cannot be run");
  // One that does something else.
  refused(ReadFile("/bin/busybox") + "davit-pod: can take over", true, "cannot be run");
  const Reply hello =
      Call([](ToSupervisor* request) { request->mutable_hello()->set_protocol_version(1); });
  EXPECT_EQ(hello.hello().program_id(), "");
  Upgrade();
}

TEST_F(UpgradeTest, AnUpgradeWaitsForWhatIsUnderWayAndGivesUpInTime) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  HungFileSystem hung(dir_ + "/hung");
  const uint64_t creation =
      SendCreate("c2", {.args = {"true"}, .bind_source = dir_ + "/hung/x", .timeout_ms = 60000});
  // In vain.
  Reply reply = AwaitReply(SendUpgrade(Program(1), "build 1", 100));
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(absl::StrContains(reply.error().message(), "container c2 is being created"))
      << reply.error().message();
  // Everything else goes on while one waits, and it comes when the creation has ended.
  const uint64_t upgrade = SendUpgrade(Program(2), "build 2", 20000);
  reply = AwaitReply(SendUpgrade(Program(3), "build 3", 20000));
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Output("c1", {"echo", "works"}), "works\n");
  EXPECT_FALSE(Remove("c2").has_error());
  reply = AwaitReply(upgrade);
  ASSERT_TRUE(reply.has_upgrade()) << reply.error().message();
  EXPECT_EQ(reply.upgrade().hello().program_id(), "build 2");
  (void)creation;
}

TEST_F(UpgradeTest, ADaemonThatDiesAmidAnUpgradeFindsOneOrTheOtherProgram) {
  StartPod();
  const int pid = Run("c1", {.args = {"sh", "-c", "i=0; while :; do echo $i; i=$((i+1)); done"}});
  for (int i = 0; i < 12; ++i) {
    const std::string id = absl::StrCat("build ", i);
    SendUpgrade(Program(i), id, 5000);
    if (i > 0) usleep(static_cast<useconds_t>(i) * 700);
    Reconnect();
    ASSERT_TRUE(hello_.has_hello()) << hello_.error().message();
    EXPECT_EQ(hello_.hello().pid(), pid_);
    ASSERT_EQ(hello_.hello().containers_size(), 1);
    EXPECT_EQ(hello_.hello().containers(0).pid(), pid);
    EXPECT_EQ(hello_.hello().containers(0).phase(), ContainerState::RUNNING);
  }
  ASSERT_FALSE(Kill("c1", SIGKILL).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExit("c1").wait_status()), SIGKILL);
  Counted(Log("c1"));
}

TEST_F(UpgradeTest, HelloNamesTheVersions) {
  StartPod([](PodConfig* config) { config->set_program_id("first"); });
  EXPECT_EQ(hello_.hello().program_id(), "first");
  EXPECT_EQ(hello_.hello().protocol_version(), 2u);
  EXPECT_EQ(hello_.hello().oldest_protocol_version(), 1u);
  EXPECT_FALSE(hello_.hello().version().empty());
  auto version =
      sys::RunCommand({.path = "sandbox/supervisor/davit-pod", .argv = {"davit-pod", "--version"}},
                      "", 1000, absl::Now() + kPatience);
  ASSERT_TRUE(version.ok()) << version.status();
  EXPECT_EQ(version->out, absl::StrCat("davit-pod ", hello_.hello().version(), "\n"));
}

}  // namespace
}  // namespace davit::sandbox
