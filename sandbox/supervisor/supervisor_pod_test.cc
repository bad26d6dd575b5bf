#include "sandbox/supervisor/supervisor_fixture.h"

namespace davit::sandbox {
namespace {

TEST_F(SupervisorTest, EventsAndExitCodesOutliveTheDaemon) {
  StartPod();
  const int running = Run("c1", {.args = {"sleep", "1000"}});
  Run("c2", {.args = {"sh", "-c", "while [ ! -e /data/go ]; do sleep 0.01; done; echo bye; exit 3"},
             .bind_source = dir_ + "/share"});
  socket_.reset();
  std::ofstream(dir_ + "/share/go") << "";
  ASSERT_TRUE(Eventually([&] { return Record("c2").phase() == ContainerState::EXITED; }));
  Reconnect();
  ASSERT_EQ(hello_.hello().containers_size(), 2);
  const ContainerState c1 = hello_.hello().containers(0), c2 = hello_.hello().containers(1);
  EXPECT_EQ(c1.phase(), ContainerState::RUNNING);
  EXPECT_EQ(c1.pid(), running);
  EXPECT_EQ(c2.phase(), ContainerState::EXITED);
  EXPECT_EQ(WEXITSTATUS(c2.wait_status()), 3);
  ASSERT_TRUE(Eventually([&] { return Log("c2") == Lines{"stdout F bye"}; }));
  // A second daemon takes over from one that hangs.
  const sys::UniqueFd hung = std::move(socket_);
  Reconnect();
  EXPECT_EQ(hello_.hello().containers_size(), 2);
  EXPECT_FALSE(Kill("c1", SIGKILL).has_error());
  AwaitExit("c1");
}

TEST_F(SupervisorTest, SignalsToTheSupervisorDoNotEndIt) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGPIPE, SIGALRM}) {
    ASSERT_EQ(kill(pid_, signal), 0);
  }
  EXPECT_TRUE(
      Call([](ToSupervisor* r) { r->mutable_hello()->set_protocol_version(1); }).has_hello());
}

TEST_F(SupervisorTest, ASharedPidNamespaceHasDavitInitAsItsFirstProcess) {
  StartPod([&](PodConfig* config) {
    config->set_shared_pid_namespace(true);
    config->set_init_cgroup(cgroups_.init_group());
  });
  const int init = hello_.hello().init_pid();
  ASSERT_GT(init, 0);
  Run("c1", {.args = {"sleep", "1000"}, .share_pid = true});
  Run("c2", {.args = {"sh", "-c", "sleep 2000 & sleep 3000"}, .share_pid = true});
  ASSERT_TRUE(Eventually([&] { return Members("c2").size() == 2; }));
  const std::string processes = Output("c1", {"ps"});
  for (const char* expected : {"davit-init", "sleep 1000", "sleep 2000", "sleep 3000"}) {
    EXPECT_TRUE(absl::StrContains(processes, expected)) << processes;
  }
  // Its init gone, the rest of a container goes too, though its PID namespace lives on.
  ASSERT_FALSE(Kill("c2", SIGKILL).has_error());
  AwaitExit("c2");
  EXPECT_TRUE(Eventually([&] { return Members("c2").empty(); }));
  EXPECT_EQ(Members("c1").size(), 1u);
  ASSERT_FALSE(Remove("c2").has_error());

  // If somebody kills the init from outside, everything in the namespace ends, and is told.
  ASSERT_EQ(kill(init, SIGKILL), 0);
  EXPECT_EQ(WTERMSIG(AwaitExit("c1").wait_status()), SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !Exists(absl::StrCat("/proc/", init)); }));
  EXPECT_EQ(static_cast<absl::StatusCode>(
                Create("c3", {.args = {"true"}, .share_pid = true}).error().code()),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SupervisorTest, AContainerJoinsThePidNamespaceOfTheOneItTargets) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Run("c2", {.args = {"sleep", "2000"}});
  Run("c3", {.args = {"sh", "-c", "ps; sleep 3000"}, .pid_target = "c1"});
  ASSERT_TRUE(Eventually([&] { return absl::StrContains(ReadFile(LogPath("c3")), "ps"); }));
  const std::string seen = ReadFile(LogPath("c3"));
  EXPECT_TRUE(absl::StrContains(seen, "1 0        sleep 1000")) << seen;
  EXPECT_FALSE(absl::StrContains(seen, "sleep 2000")) << seen;
  ASSERT_FALSE(Kill("c1", SIGKILL).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExit("c3").wait_status()), SIGKILL) << "it ends with its namespace";
  EXPECT_EQ(static_cast<absl::StatusCode>(
                Create("c4", {.args = {"true"}, .pid_target = "c1"}).error().code()),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SupervisorTest, TheSupervisorIsAMemberOfThePodsNamespaces) {
  StartPod([&](PodConfig* config) {
    config->set_new_network_namespace(true);
    config->set_netns_path(netns_path());
    (*config->mutable_sysctls())["net.ipv4.ip_unprivileged_port_start"] = "77";
    (*config->mutable_sysctls())["kernel.shm_rmid_forced"] = "1";
  });
  ASSERT_TRUE(hello_.has_hello()) << hello_.error().message();
  for (const char* ns : {"net", "ipc", "uts"}) {
    EXPECT_NE(LinkOf(absl::StrCat("/proc/", pid_, "/ns/", ns)),
              LinkOf(absl::StrCat("/proc/self/ns/", ns)));
  }
  for (const char* ns : {"mnt", "pid", "user", "cgroup"}) {
    EXPECT_EQ(LinkOf(absl::StrCat("/proc/", pid_, "/ns/", ns)),
              LinkOf(absl::StrCat("/proc/self/ns/", ns)));
  }
  // The binding is that namespace.
  struct stat bound, own;
  ASSERT_EQ(stat(netns_path().c_str(), &bound), 0);
  ASSERT_EQ(stat(absl::StrCat("/proc/", pid_, "/ns/net").c_str(), &own), 0);
  EXPECT_EQ(bound.st_ino, own.st_ino);
  Run("c1", {.args = {"sleep", "1000"}});
  EXPECT_EQ(Output("c1", {"cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"}), "77\n");
  EXPECT_EQ(Output("c1", {"cat", "/proc/sys/kernel/shm_rmid_forced"}), "1\n");
  EXPECT_NE(ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "77\n");
  EXPECT_EQ(Output("c1", {"busybox", "ping", "-c", "1", "-q", "127.0.0.1"})
                .find("Network is unreachable"),
            std::string::npos);
  EXPECT_TRUE(absl::StrContains(Output("c1", {"busybox", "ip", "addr", "show", "lo"}), "UP"));
}

TEST_F(SupervisorTest, ContainersOfAPodShareItsMemoryFileSystem) {
  StartPod([](PodConfig* config) { config->set_shm_size(1 << 20); });
  Run("c1", {.args = {"sleep", "1000"}});
  Run("c2", {.args = {"sleep", "1000"}});
  EXPECT_EQ(Output("c1", {"sh", "-c", "echo shared > /dev/shm/x; echo $?"}), "0\n");
  EXPECT_EQ(Output("c2", {"cat", "/dev/shm/x"}), "shared\n");
  EXPECT_FALSE(Exists("/dev/shm/x"));
}

TEST_F(SupervisorTest, APodThatCannotBeSetUpSaysWhy) {
  PodConfig config;
  config.set_sandbox_id("pod1");
  config.set_pod_dir(dir_ + "/pod");
  config.set_new_network_namespace(true);
  config.set_netns_path(netns_path());
  (*config.mutable_sysctls())["net.no_such.key"] = "1";
  SpawnPod(config);
  const Reply reply =
      Call([](ToSupervisor* request) { request->mutable_hello()->set_protocol_version(1); });
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(reply.error().message(), "net.no_such.key"))
      << reply.error().message();
  auto status = sys::WaitPidfd(pidfd_.get(), absl::Now() + kPatience);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(WEXITSTATUS(*status), 1);
  EXPECT_FALSE(Exists(netns_path()));
  EXPECT_EQ(Mounts(), std::set<std::string>());
  pid_ = 0;
}

TEST_F(SupervisorTest, ShutdownEndsWhateverRuns) {
  StartPod([&](PodConfig* config) {
    config->set_shared_pid_namespace(true);
    config->set_new_network_namespace(true);
    config->set_netns_path(netns_path());
  });
  const int init = hello_.hello().init_pid();
  const int own = Run("c1", {.args = {"sleep", "1000"}});
  const int shared = Run("c2", {.args = {"sh", "-c", "sleep 1000 & wait"}, .share_pid = true});
  ASSERT_FALSE(Create("c3", {.args = {"sleep", "1000"}}).has_error());  // never started
  ASSERT_FALSE(Exec("c1", "e1", {.args = {"sleep", "1000"}}).has_error());
  Run("c4", {.args = {"true"}});
  AwaitExit("c4");
  ASSERT_TRUE(Shutdown());
  for (const int pid : {init, own, shared}) EXPECT_FALSE(Exists(absl::StrCat("/proc/", pid)));
  EXPECT_EQ(Mounts(), std::set<std::string>());
  EXPECT_TRUE(cgroups_.Children().empty());
}

TEST_F(SupervisorTest, RequestsForManyContainersMayBeInFlightAtOnce) {
  StartPod();
  constexpr int kContainers = 12;
  std::vector<uint64_t> ids;
  ids.reserve(kContainers);
  for (int i = 0; i < kContainers; ++i) {
    ids.push_back(SendCreate(absl::StrCat("c", i), {.args = {"sh", "-c", "echo $0; exit 4"}}));
  }
  std::set<uint64_t> answered;
  while (answered.size() < ids.size()) {
    FromSupervisor message;
    ASSERT_TRUE(Receive(&message, nullptr));
    ASSERT_FALSE(message.reply().has_error()) << message.reply().error().message();
    answered.insert(message.reply().request_id());
  }
  for (int i = 0; i < kContainers; ++i) {
    ASSERT_FALSE(Start(absl::StrCat("c", i)).has_error());
  }
  for (int i = 0; i < kContainers; ++i) {
    EXPECT_EQ(WEXITSTATUS(AwaitExit(absl::StrCat("c", i)).wait_status()), 4);
  }
  // Nothing of them stays open in the supervisor once they are removed.
  const auto descriptors = [&] {
    auto listed =
        sys::RunCommand({.path = "/bin/ls", .argv = {"ls", absl::StrCat("/proc/", pid_, "/fd")}},
                        "", 1 << 16, absl::Now() + kPatience);
    const std::vector<std::string> lines = absl::StrSplit(listed->out, '\n', absl::SkipEmpty());
    return lines.size();
  };
  const size_t before = descriptors();
  for (int i = 0; i < kContainers; ++i) {
    const Reply removed = Remove(absl::StrCat("c", i));
    ASSERT_FALSE(removed.has_error()) << removed.error().message();
  }
  EXPECT_TRUE(Eventually([&] { return descriptors() + kContainers <= before; }));
  EXPECT_TRUE(cgroups_.Children().empty());
}

TEST_F(SupervisorTest, AHungBindSourceHoldsUpNothingButItsOwnContainer) {
  StartPod();
  HungFileSystem hung(dir_ + "/hung");
  const uint64_t request =
      SendCreate("c1", {.args = {"true"}, .bind_source = dir_ + "/hung/x", .timeout_ms = 500});
  Run("c2", {.args = {"echo", "meanwhile"}});
  AwaitExit("c2");
  const Reply reply = AwaitReply(request);
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(absl::StrContains(reply.error().message(), dir_ + "/hung/x"))
      << reply.error().message();
  // Removing one that hangs gives its creation up at once.
  const uint64_t second =
      SendCreate("c3", {.args = {"true"}, .bind_source = dir_ + "/hung/x", .timeout_ms = 60000});
  EXPECT_FALSE(Remove("c3").has_error());
  ASSERT_FALSE(Remove("c2").has_error());
  EXPECT_TRUE(cgroups_.Children().empty());
  Reconnect();
  EXPECT_EQ(hello_.hello().containers_size(), 0);
  (void)second;
}

TEST_F(SupervisorTest, TheNamespacesOfAPodWithAUserNamespaceBelongToIt) {
  StartPod([&](PodConfig* config) {
    for (auto* maps : {config->mutable_uid_maps(), config->mutable_gid_maps()}) {
      auto* map = maps->Add();
      map->set_container_id(0);
      map->set_host_id(200000);
      map->set_size(65536);
    }
    config->set_new_network_namespace(true);
    config->set_netns_path(netns_path());
    config->set_shared_pid_namespace(true);
    config->set_init_cgroup(cgroups_.init_group());
    (*config->mutable_sysctls())["net.ipv4.ip_unprivileged_port_start"] = "99";
  });
  ASSERT_TRUE(hello_.has_hello()) << hello_.error().message();
  const int init = hello_.hello().init_pid();
  const std::string user = LinkOf(absl::StrCat("/proc/", init, "/ns/user"));
  EXPECT_NE(user, LinkOf("/proc/self/ns/user"));
  EXPECT_EQ(LinkOf(absl::StrCat("/proc/", pid_, "/ns/user")), LinkOf("/proc/self/ns/user"));
  for (const char* type : {"net", "ipc", "uts"}) {
    const sys::UniqueFd ns(
        open(absl::StrCat("/proc/", pid_, "/ns/", type).c_str(), O_RDONLY | O_CLOEXEC));
    const sys::UniqueFd owner(ioctl(ns.get(), NS_GET_USERNS));
    ASSERT_TRUE(owner.ok()) << type;
    EXPECT_EQ(LinkOf(absl::StrCat("/proc/self/fd/", owner.get())), user) << type;
  }
}

// Whatever a dying daemon leaves half asked for, the next one finds a supervisor in order.
TEST_F(SupervisorTest, ADaemonMayDieAtAnyMoment) {
  StartPod();
  Run("base", {.args = {"sleep", "1000"}});
  for (int round = 0; round < 40; ++round) {
    const std::string id = absl::StrCat("c", round);
    SendCreate(id, {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}});
    if (round % 4 >= 1) {
      SendRequest([&](ToSupervisor* r) { r->mutable_start_container()->set_container_id(id); });
    }
    if (round % 4 >= 2) {
      const sys::UniqueFd plan =
          Memfd("plan", ExecPlan("base", id, {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}}));
      SendRequest(
          [&](ToSupervisor* r) {
            r->mutable_exec()->set_exec_id(id);
            r->mutable_exec()->set_container_id("base");
          },
          {plan.get()});
    }
    if (round % 4 == 3) {
      SendRequest([&](ToSupervisor* r) { r->mutable_remove_container()->set_container_id(id); });
    }
    usleep(static_cast<useconds_t>(round * 150));
    socket_.reset();
    Reconnect();
    ASSERT_TRUE(hello_.has_hello());
  }
  for (int round = 0; round < 40; ++round) {
    const Reply removed = Remove(absl::StrCat("c", round));
    EXPECT_FALSE(removed.has_error()) << removed.error().message();
  }
  EXPECT_TRUE(Eventually([&] { return Members("base").size() == 1; }));
  Reconnect();
  ASSERT_EQ(hello_.hello().containers_size(), 1);
  EXPECT_EQ(hello_.hello().containers(0).phase(), ContainerState::RUNNING);
  EXPECT_EQ(Output("base", {"echo", "fine"}), "fine\n");
}

}  // namespace
}  // namespace davit::sandbox
