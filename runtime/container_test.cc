#include "runtime/container.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using testing::Bundle;
using testing::Line;
using testing::Pipe;
using testing::Residue;
using testing::Running;
using testing::Sections;
using testing::StartWaiting;

TEST(ContainerTest, RunsThePayloadInItsOwnNamespaces) {
  Bundle bundle;
  const Sections out = bundle.RunProbe(bundle.DefaultSpec(), {{"pid"},
                                                              {"names"},
                                                              {"fds"},
                                                              {"signals"},
                                                              {"cat", "/proc/self/cgroup"},
                                                              {"cat", "/proc/net/dev"},
                                                              {"ls", "/sys/class/net"}});
  EXPECT_EQ(out.at("pid"), "1 0 1");
  EXPECT_EQ(out.at("names"), "davit-test (none)");
  EXPECT_EQ(out.at("fds"), "0 1 2 ");
  EXPECT_EQ(out.at("signals"), "[]");
  EXPECT_EQ(out.at("ls /sys/class/net"), "lo");
  for (const absl::string_view line : absl::StrSplit(out.at("cat /proc/self/cgroup"), '\n')) {
    EXPECT_TRUE(absl::EndsWith(line, ":/")) << line;
  }
}

TEST(ContainerTest, IgnoredAndBlockedSignalsOfTheCreatorDoNotReachThePayload) {
  Bundle bundle;
  signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  const Sections out = bundle.RunProbe(bundle.DefaultSpec(), {{"signals"}});
  sigprocmask(SIG_UNBLOCK, &blocked, nullptr);
  signal(SIGPIPE, SIG_DFL);
  EXPECT_EQ(out.at("signals"), "[]");
}

TEST(ContainerTest, IdentityLimitsAndConfinementAreWhatTheSpecSays) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->user = {.uid = 1000, .gid = 1001, .umask = 027, .additional_gids = {7, 8}};
  spec.process->cwd = "/work/dir";
  spec.process->env = {"PATH=/bin", "A=1", "A=2", "B=\xff"};
  spec.process->rlimits = {{"RLIMIT_NOFILE", 100, 200}, {"RLIMIT_CORE", 0, 0}};
  spec.process->oom_score_adj = 500;
  spec.process->capabilities->inheritable = {"CAP_CHOWN", "CAP_KILL"};
  spec.process->capabilities->ambient = {"CAP_KILL"};
  spec.linux_.seccomp = spec::Seccomp{.default_action = "SCMP_ACT_ALLOW"};
  spec.linux_.seccomp->syscalls = {
      {.names = {"mkdir"}, .action = "SCMP_ACT_ERRNO", .errno_ret = 18}};
  const Sections out = bundle.RunProbe(spec, {{"ids"},
                                              {"umask"},
                                              {"cwd"},
                                              {"env"},
                                              {"rlimit", std::to_string(RLIMIT_NOFILE)},
                                              {"cat", "/proc/self/status"},
                                              {"cat", "/proc/self/oom_score_adj"},
                                              {"mkdir", "/tmp/x"},
                                              {"write", "/proc/self/fd/1", ""}});
  EXPECT_EQ(out.at("ids"), "1000 1000 1001 1001: 7 8");
  EXPECT_EQ(out.at("umask"), "0027");
  EXPECT_EQ(out.at("cwd"), "/work/dir");
  EXPECT_EQ(out.at("env"), "PATH=/bin\nA=2\nB=\xff");
  EXPECT_EQ(out.at(absl::StrCat("rlimit ", RLIMIT_NOFILE)), "100 200");
  const std::string& status = out.at("cat /proc/self/status");
  EXPECT_EQ(Line(status, "CapAmb"), "CapAmb:\t0000000000000020");
  EXPECT_EQ(Line(status, "CapInh"), "CapInh:\t0000000000000021");
  EXPECT_EQ(Line(status, "CapEff"), "CapEff:\t0000000000000020");
  EXPECT_EQ(Line(status, "CapPrm"), "CapPrm:\t0000000000000020");
  EXPECT_EQ(Line(status, "CapBnd"), "CapBnd:\t00000000a80425fb");
  EXPECT_EQ(Line(status, "NoNewPrivs"), "NoNewPrivs:\t1");
  EXPECT_EQ(Line(status, "Seccomp:"), "Seccomp:\t2");
  EXPECT_EQ(Line(status, "Seccomp_filters"), "Seccomp_filters:\t1");
  EXPECT_EQ(out.at("cat /proc/self/oom_score_adj"), "500");
  EXPECT_EQ(out.at("mkdir /tmp/x"), "EXDEV");
  EXPECT_EQ(out.at("write /proc/self/fd/1 "), "ok");  // its own pipe, opened again
}

TEST(ContainerTest, WithoutNoNewPrivilegesSeccompIsLoadedToo) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->no_new_privileges = false;
  spec.process->user.uid = 1000;
  spec.linux_.seccomp = spec::Seccomp{.default_action = "SCMP_ACT_ALLOW"};
  spec.linux_.seccomp->syscalls = {
      {.names = {"mkdir"}, .action = "SCMP_ACT_ERRNO", .errno_ret = 18}};
  const Sections out = bundle.RunProbe(spec, {{"mkdir", "/tmp/x"}, {"cat", "/proc/self/status"}});
  EXPECT_EQ(out.at("mkdir /tmp/x"), "EXDEV");
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "NoNewPrivs"), "NoNewPrivs:\t0");
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "CapEff"), "CapEff:\t0000000000000000");
}

TEST(ContainerTest, WithoutCapabilitiesEvenRootHasNone) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->capabilities.reset();
  const Sections out = bundle.RunProbe(spec, {{"cat", "/proc/self/status"}, {"mount", "/tmp"}});
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "CapBnd"), "CapBnd:\t0000000000000000");
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "CapEff"), "CapEff:\t0000000000000000");
  EXPECT_EQ(out.at("mount /tmp"), "EPERM");
}

TEST(ContainerTest, WhatTheRuntimeLacksIsDroppedWithAWarning) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->capabilities->effective.push_back("CAP_SYS_ADMIN");
  spec.process->capabilities->permitted.push_back("CAP_SYS_ADMIN");
  spec.process->capabilities->bounding.push_back("CAP_NO_SUCH");
  spec.process->oom_score_adj = -999;
  Container::Options options = bundle.Options(spec);
  options.spec.process->args = Bundle::Probe({{"exit", "0"}});
  options.inputs.capability_ceiling &= ~(uint64_t{1} << 21);
  options.inputs.oom_score_adj_floor = 0;
  auto container = Container::Create(options);
  ASSERT_TRUE(container.ok()) << container.status();
  ASSERT_EQ((*container)->warnings().size(), 3u);
  EXPECT_TRUE(absl::StrContains((*container)->warnings()[0], "oom_score_adj -999"));
  EXPECT_TRUE(absl::StrContains((*container)->warnings()[1], "CAP_NO_SUCH"));
  EXPECT_TRUE(absl::StrContains((*container)->warnings()[2], "CAP_SYS_ADMIN"));
}

TEST(ContainerTest, SysctlsOfItsOwnNamespacesAreSet) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.domainname = "example";
  spec.linux_.sysctl = {{"net.ipv4.ip_forward", "1"},
                        {"net/ipv4/conf/lo/forwarding", "1"},
                        {"kernel.shmmax", "12345"}};
  const Sections out = bundle.RunProbe(
      spec,
      {{"cat", "/proc/sys/net/ipv4/ip_forward"}, {"cat", "/proc/sys/kernel/shmmax"}, {"names"}});
  EXPECT_EQ(out.at("cat /proc/sys/net/ipv4/ip_forward"), "1");
  EXPECT_EQ(out.at("cat /proc/sys/kernel/shmmax"), "12345");
  EXPECT_EQ(out.at("names"), "davit-test example");
}

TEST(ContainerTest, CgroupsHoldThePayloadAndItsLimits) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.resources->pids_limit = 77;
  spec.linux_.resources->memory.emplace();
  spec.linux_.resources->memory->limit = 64 << 20;
  // As the kubelet asks for, so that no container goes on with half of its processes.
  if (bundle.layout().IsPureV2()) spec.linux_.resources->unified = {{"memory.oom.group", "1"}};
  Running running;
  const Container::Options options = bundle.Options(spec);
  StartWaiting(options, &running);
  ASSERT_NE(running.container, nullptr);
  std::ifstream file(absl::StrCat("/proc/", running.container->pid(), "/cgroup"));
  int lines = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    EXPECT_TRUE(absl::EndsWith(line, bundle.group() + "/c0")) << line;
  }
  EXPECT_EQ(lines, static_cast<int>(bundle.layout().hierarchies.size()));
  const auto read = [&](const char* controller, const char* name) {
    std::ifstream limit(absl::StrCat(
        bundle.layout().Directory(bundle.layout().Find(controller), bundle.group()), "/c0/", name));
    std::string value;
    std::getline(limit, value);
    return value;
  };
  if (!bundle.layout().IsPureV2()) {
    EXPECT_EQ(read("pids", "pids.max"), "77");
    EXPECT_EQ(read("memory", "memory.limit_in_bytes"), std::to_string(64 << 20));
  } else {
    EXPECT_EQ(read("pids", "pids.max"), "77");
    EXPECT_EQ(read("memory", "memory.max"), std::to_string(64 << 20));
    EXPECT_EQ(read("memory", "memory.oom.group"), "1");
  }
}

TEST(ContainerTest, DevicesThatNoRuleAllowsCannotBeOpened) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.devices = {{"/dev/loop-control", "c", 10, 237, 0666}};
  const std::vector<std::vector<std::string>> commands = {{"cat", "/dev/loop-control"}};
  EXPECT_EQ(bundle.RunProbe(spec, commands).at("cat /dev/loop-control"), "EPERM");
  spec.linux_.resources->devices.push_back(
      {.allow = true, .type = "c", .major = 10, .minor = 237, .access = "rw"});
  // It cannot be read, or its driver is not loaded; but the group lets it be opened.
  EXPECT_NE(bundle.RunProbe(spec, commands).at("cat /dev/loop-control"), "EPERM");
}

TEST(ContainerTest, ATerminalBecomesTheControllingTerminal) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->terminal = true;
  spec.process->console_size = spec::Box{.height = 33, .width = 99};
  spec.process->user.uid = 1000;
  spec.process->args =
      Bundle::Probe({{"terminal"}, {"stat", "/dev/pts/0"}, {"stat", "/dev/console"}});
  auto container = Container::Create(bundle.Options(spec));
  ASSERT_TRUE(container.ok()) << container.status();
  Pipe console;
  console.read_end = (*container)->TakeConsole();
  ASSERT_TRUE(console.read_end.ok());
  ASSERT_TRUE((*container)->Start().ok());
  const std::string text = console.ReadAll();
  EXPECT_TRUE(absl::StrContains(text, "111 /dev/pts/0 rows=33 cols=99 tty=ok")) << text;
  EXPECT_TRUE(absl::StrContains(text, "char 620 136:0 uid=1000 gid=5")) << text;
  ASSERT_TRUE((*container)->Wait(absl::Now() + absl::Seconds(10)).ok());
}

TEST(ContainerTest, StatesFollowTheLifecycle) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"pause"}});
  const Residue before = bundle.Count();
  auto created = Container::Create(bundle.Options(spec));
  ASSERT_TRUE(created.ok()) << created.status();
  Container& container = **created;
  EXPECT_EQ(container.status(), ContainerStatus::kCreated);
  EXPECT_EQ(container.Delete(false).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(container.Start().ok());
  EXPECT_EQ(container.status(), ContainerStatus::kRunning);
  EXPECT_EQ(container.Start().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(container.Delete(false).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(container.Kill(SIGKILL).ok());
  auto status = container.Wait(absl::Now() + absl::Seconds(10));
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(WTERMSIG(*status), SIGKILL);
  EXPECT_EQ(container.status(), ContainerStatus::kStopped);
  EXPECT_EQ(container.Kill(SIGTERM).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(container.Delete(false).ok());
  EXPECT_TRUE(container.Delete(false).ok());
  created->reset();
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, ACreatedContainerEndsWhenItsCreatorLetsGo) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"pause"}});
  const Residue before = bundle.Count();
  { ASSERT_TRUE(Container::Create(bundle.Options(spec)).ok()); }
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, CommandsThatCannotBeExecutedAreNamedWithTheReason) {
  Bundle bundle;
  std::ofstream(bundle.rootfs() + "/etc/text") << "no program";
  std::filesystem::permissions(bundle.rootfs() + "/etc/text", std::filesystem::perms::all);
  std::ofstream(bundle.rootfs() + "/bin/plain") << "x";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"/bin/nope", "exec \"/bin/nope\": No such file or directory (ENOENT)"},
      {"nope", "exec \"nope\": No such file or directory (ENOENT)"},
      {"/etc", "exec \"/etc\": Permission denied (EACCES)"},
      {"plain", "exec \"plain\": Permission denied (EACCES)"},
      {"/etc/text", "exec \"/etc/text\": Exec format error (ENOEXEC)"}};
  for (const auto& [command, message] : cases) {
    spec::Spec spec = bundle.DefaultSpec();
    spec.process->args = {command};
    auto container = Container::Create(bundle.Options(spec));
    ASSERT_TRUE(container.ok()) << container.status();
    const absl::Status status = (*container)->Start();
    EXPECT_EQ(status.message(), message);
    EXPECT_EQ((*container)->status(), ContainerStatus::kStopped);
  }
}

TEST(ContainerTest, CommandsAreFoundThroughThePathOfTheContainer) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->env = {"PATH=/missing:/etc:/bin"};
  spec.process->args = {"probe", "pid"};
  EXPECT_TRUE(absl::StrContains(bundle.Run(spec), "1 0 1"));
}

TEST(ContainerTest, ACgroupThatExistsAlreadyIsAnError) {
  Bundle bundle;
  Container::Options options = bundle.Options(bundle.DefaultSpec());
  const std::string& path = options.inputs.cgroups.back().path;
  std::filesystem::create_directory(path);
  const Residue before = bundle.Count();
  auto container = Container::Create(options);
  EXPECT_EQ(container.status().message(),
            absl::StrCat("make cgroup \"", path, "\": File exists (EEXIST)"));
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, GroupsThatThePayloadMadeGoWithItsOwn) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.back().options = {"nosuid", "noexec", "nodev"};  // a writable cgroup mount
  const std::string group = bundle.CgroupInside("pids");
  const Sections out = bundle.RunProbe(
      spec, {{"mkdir", group + "/a"}, {"mkdir", group + "/a/b"}, {"mkdir", group + "/.c"}});
  EXPECT_EQ(out.at(absl::StrCat("mkdir ", group, "/a/b")), "ok");
  EXPECT_EQ(bundle.Count().cgroups, std::vector<std::string>());
}

TEST(ContainerTest, EveryOperationIsTimed) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"exit", "0"}});
  auto container = Container::Create(bundle.Options(spec));
  ASSERT_TRUE(container.ok()) << container.status();
  const std::vector<stage::Timing> timings = (*container)->Timings();
  EXPECT_GT(timings.size(), 60u);  // fewer where there is one hierarchy
  EXPECT_EQ(timings[0].operation, "make cgroup");
}

}  // namespace
}  // namespace davit::runtime
