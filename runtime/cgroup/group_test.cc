#include "runtime/cgroup/group.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/cgroup/stats.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"

// On the real kernel, whatever its hierarchies are. All groups are below one of our own name.
namespace davit::runtime::cgroup {
namespace {

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

class GroupTest : public testing::Test {
 protected:
  void SetUp() override {
    auto layout = DetectLayout();
    ASSERT_TRUE(layout.ok()) << layout.status();
    auto groups = Groups::Create(Driver::kCgroupfs, *std::move(layout));
    ASSERT_TRUE(groups.ok()) << groups.status();
    groups_ = *std::move(groups);
    ASSERT_TRUE(groups_->Make(group_).ok()) << groups_->Make(group_);
  }
  void TearDown() override {
    EXPECT_TRUE(groups_->KillAll(top_, Soon()).ok());
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    const absl::Status removed = groups_->Remove(top_, Soon());
    EXPECT_TRUE(removed.ok()) << removed;
    EXPECT_FALSE(groups_->Exists(top_));
  }

  std::string Read(absl::string_view controller, absl::string_view file) {
    const int hierarchy = groups_->layout().Find(controller);
    if (hierarchy < 0) return "";
    auto text = sys::ReadFileAt(
        AT_FDCWD, absl::StrCat(groups_->layout().Directory(hierarchy, group_), "/", file), 65536);
    return text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : text.status().ToString();
  }

  bool IsV2(absl::string_view controller) {
    return groups_->layout().hierarchies[groups_->layout().Find(controller)].is_v2;
  }

  absl::Status Set(const spec::LinuxResources& resources) {
    auto writes = CompileResources(resources, groups_->layout());
    return writes.ok() ? groups_->Apply(group_, *writes) : writes.status();
  }

  // A child that is in the group before `body` runs. Returns its pid.
  pid_t Run(const std::function<void()>& body) {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t pid = fork();
    if (pid == 0) {
      close(ends[1]);
      char byte;
      if (read(ends[0], &byte, 1) == 1) body();
      _exit(0);
    }
    close(ends[0]);
    const absl::Status entered = groups_->Enter(group_, pid);
    EXPECT_TRUE(entered.ok()) << entered;
    EXPECT_EQ(write(ends[1], "x", 1), 1);
    close(ends[1]);
    return pid;
  }

  const std::string top_ = absl::StrCat("/davit-test-group-", getpid());
  const std::string group_ = top_ + "/pod/container";
  std::unique_ptr<Groups> groups_;
};

spec::LinuxResources Limits() {
  spec::LinuxResources resources;
  resources.cpu = spec::Cpu{.shares = 512, .quota = 50000, .period = 100000};
  resources.memory = spec::Memory{.limit = 64 << 20, .swap = 64 << 20};
  resources.pids_limit = 32;
  return resources;
}

TEST_F(GroupTest, LimitsReadBackAsTheyWereSet) {
  const absl::Status set = Set(Limits());
  ASSERT_TRUE(set.ok()) << set;
  EXPECT_EQ(Read("pids", "pids.max"), "32");
  if (IsV2("memory")) {
    EXPECT_EQ(Read("memory", "memory.max"), absl::StrCat(64 << 20));
  } else {
    EXPECT_EQ(Read("memory", "memory.limit_in_bytes"), absl::StrCat(64 << 20));
    EXPECT_EQ(Read("memory", "memory.memsw.limit_in_bytes"), absl::StrCat(64 << 20));
  }
  if (IsV2("cpu")) {
    EXPECT_EQ(Read("cpu", "cpu.max"), "50000 100000");
    EXPECT_EQ(Read("cpu", "cpu.weight"), "59");
  } else {
    EXPECT_EQ(Read("cpu", "cpu.shares"), "512");
    EXPECT_EQ(Read("cpu", "cpu.cfs_quota_us"), "50000");
  }
  const auto limits = groups_->ReadLimits(group_);
  ASSERT_TRUE(limits.ok());
  EXPECT_EQ(limits->memory, 64 << 20);
  EXPECT_EQ(limits->cpu_quota, 50000);
  EXPECT_EQ(limits->cpu_period, 100000u);
}

TEST_F(GroupTest, LimitsOfALiveGroupGoUpAndDown) {
  ASSERT_TRUE(Set(Limits()).ok());
  const pid_t pid = Run([] { pause(); });
  for (const int64_t mebibytes : {256, 32, 128}) {
    spec::LinuxResources resources;
    resources.memory = spec::Memory{.limit = mebibytes << 20, .swap = mebibytes << 20};
    resources.cpu =
        spec::Cpu{.quota = mebibytes * 1000, .period = static_cast<uint64_t>(mebibytes) * 1000};
    const absl::Status updated = groups_->Update(group_, resources);
    ASSERT_TRUE(updated.ok()) << updated;
    EXPECT_EQ(groups_->ReadLimits(group_)->memory, mebibytes << 20);
    EXPECT_EQ(groups_->ReadLimits(group_)->cpu_quota, mebibytes * 1000);
  }
  // Memory alone, above the present limit of memory and swap.
  spec::LinuxResources resources;
  resources.memory = spec::Memory{.limit = 512 << 20};
  const absl::Status updated = groups_->Update(group_, resources);
  EXPECT_TRUE(updated.ok()) << updated;
  EXPECT_EQ(groups_->ReadLimits(group_)->memory, 512 << 20);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

TEST_F(GroupTest, AnUpdateThatFailsHalfWayChangesNothing) {
  ASSERT_TRUE(Set(Limits()).ok());
  const std::string shares = Read("cpu", IsV2("cpu") ? "cpu.weight" : "cpu.shares");
  spec::LinuxResources resources;
  resources.cpu = spec::Cpu{.shares = 2048, .quota = 25000, .cpus = "4095"};
  resources.memory = spec::Memory{.limit = 128 << 20, .swap = 128 << 20};
  EXPECT_FALSE(groups_->Update(group_, resources).ok());
  EXPECT_EQ(Read("cpu", IsV2("cpu") ? "cpu.weight" : "cpu.shares"), shares);
  EXPECT_EQ(groups_->ReadLimits(group_)->cpu_quota, 50000);
  EXPECT_EQ(groups_->ReadLimits(group_)->memory, 64 << 20);
}

TEST_F(GroupTest, DeviceRulesAreNotUpdated) {
  spec::LinuxResources resources;
  resources.devices = {{.allow = false}};
  EXPECT_EQ(groups_->Update(group_, resources).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GroupTest, AProcessAboveItsMemoryLimitIsKilledAndCounted) {
  spec::LinuxResources resources;
  resources.memory = spec::Memory{.limit = 16 << 20, .swap = 16 << 20};
  ASSERT_TRUE(Set(resources).ok());
  const pid_t pid = Run([] {
    constexpr size_t kSize = 64 << 20;
    auto* memory = static_cast<char*>(
        mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < kSize; i += 4096) memory[i] = 1;
  });
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
  const auto kills = ReadOomKills(groups_->layout(), group_);
  ASSERT_TRUE(kills.ok());
  EXPECT_EQ(*kills, 1u);
  const auto stats = ReadStats(groups_->layout(), group_);
  ASSERT_TRUE(stats.ok());
  EXPECT_EQ(stats->memory->oom_kills, 1u);
  EXPECT_EQ(stats->memory->max_usage, 16u << 20);
  EXPECT_EQ(stats->memory->limit, 16u << 20);
}

uint64_t Threads(pid_t pid) {
  auto status = sys::ReadFileAt(AT_FDCWD, absl::StrCat("/proc/", pid, "/status"), 65536);
  const size_t field = status.ok() ? status->find("\nThreads:\t") : std::string::npos;
  return field == std::string::npos ? 0 : strtoul(status->c_str() + field + 10, nullptr, 10);
}

TEST_F(GroupTest, StatisticsCountWhatAProcessUses) {
  ASSERT_TRUE(Set(Limits()).ok());
  int ready[2];
  ASSERT_EQ(pipe2(ready, O_CLOEXEC), 0);
  const pid_t pid = Run([&] {
    auto* memory = static_cast<char*>(
        mmap(nullptr, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    for (size_t i = 0; i < (8 << 20); i += 4096) memory[i] = 1;
    (void)!write(ready[1], "x", 1);
    pause();
  });
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const auto stats = ReadStats(groups_->layout(), group_);
  ASSERT_TRUE(stats.ok()) << stats.status();
  EXPECT_GT(stats->cpu->usage_ns, 0u);
  EXPECT_GE(stats->memory->rss, 7u << 20);
  EXPECT_GE(stats->memory->usage, 8u << 20);
  // Tasks, not processes: one, unless a sanitizer adds a thread of its own.
  EXPECT_EQ(stats->pids->current, Threads(pid));
  EXPECT_EQ(stats->pids->limit, 32u);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST_F(GroupTest, ProcessesAreListedOnceWithThoseOfGroupsBelow) {
  const pid_t pid = Run([] { pause(); });
  const auto processes = groups_->Processes(top_);
  ASSERT_TRUE(processes.ok()) << processes.status();
  EXPECT_THAT(*processes, testing::ElementsAre(pid));
  EXPECT_EQ(groups_->Processes(top_ + "/none").status().code(), absl::StatusCode::kNotFound);
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

// Children that keep forking children of their own. Tells `refused` when the limit is reached.
[[noreturn]] void ForkOn(int refused) {
  for (;;) {
    const pid_t child = fork();
    if (child < 0) (void)!write(refused, "x", 1);
    if (child == 0) setsid();
  }
}

TEST_F(GroupTest, KillAllEndsATreeThatKeepsForking) {
  signal(SIGCHLD, SIG_IGN);
  spec::LinuxResources resources;
  resources.pids_limit = 60;
  ASSERT_TRUE(Set(resources).ok());
  int refused[2];
  ASSERT_EQ(pipe2(refused, O_CLOEXEC | O_NONBLOCK), 0);
  fcntl(refused[0], F_SETFL, 0);
  Run([&] { ForkOn(refused[1]); });
  // It has reached its limit when a fork was refused.
  char byte;
  ASSERT_EQ(read(refused[0], &byte, 1), 1);
  close(refused[0]);
  close(refused[1]);
  const absl::Status killed = groups_->KillAll(top_, Soon());
  EXPECT_TRUE(killed.ok()) << killed;
  EXPECT_TRUE(groups_->Processes(top_)->empty());
  signal(SIGCHLD, SIG_DFL);
}

// The kernel forgets to tell of the last exit if the group goes within some milliseconds.
TEST_F(GroupTest, KillAllEndsWithAGroupThatSomebodyElseRemoves) {
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(groups_->Make(group_).ok());
    const pid_t pid = Run([] { pause(); });
    std::thread remover([&] {
      waitpid(pid, nullptr, 0);
      EXPECT_TRUE(groups_->Remove(group_, Soon()).ok());
    });
    const absl::Status killed = groups_->KillAll(group_, Soon());
    EXPECT_TRUE(killed.ok()) << killed;
    remover.join();
  }
}

TEST_F(GroupTest, KillAllReachesProcessesThatAreInV1GroupsOnly) {
  if (groups_->layout().IsPureV2()) GTEST_SKIP() << "no v1 hierarchies on this kernel";
  signal(SIGCHLD, SIG_IGN);
  const int devnull = open("/dev/null", O_WRONLY | O_CLOEXEC);
  const pid_t pid = Run([&] { ForkOn(devnull); });
  close(devnull);
  // Back to the v2 root, so that cgroup.kill cannot reach it.
  if (const int unified = groups_->layout().Unified(); unified >= 0) {
    ASSERT_TRUE(sys::WriteExistingAt(AT_FDCWD,
                                     groups_->layout().Directory(unified, "/cgroup.procs"),
                                     absl::StrCat(pid))
                    .ok());
  }
  spec::LinuxResources resources;
  resources.pids_limit = 60;
  ASSERT_TRUE(Set(resources).ok());
  const absl::Status killed = groups_->KillAll(group_, Soon());
  EXPECT_TRUE(killed.ok()) << killed;
  EXPECT_TRUE(groups_->Processes(group_)->empty());
  signal(SIGCHLD, SIG_DFL);
}

TEST_F(GroupTest, KillAllRefusesToKillItsCaller) {
  const pid_t pid = Run([this] {
    const bool refused =
        groups_->KillAll(group_, Soon()).code() == absl::StatusCode::kFailedPrecondition;
    _exit(refused ? 7 : 1);
  });
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 7) << status;
}

TEST_F(GroupTest, RemovingABusyGroupNamesTheProcessAtTheDeadline) {
  const pid_t pid = Run([] { pause(); });
  const absl::Status status = groups_->Remove(group_, absl::Now() + absl::Milliseconds(20));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(absl::StrCat(pid)));
  kill(pid, SIGKILL);
  waitpid(pid, nullptr, 0);
}

TEST_F(GroupTest, RemoveWaitsForTheLastProcessToExit) {
  const pid_t pid = Run([] { pause(); });
  kill(pid, SIGKILL);
  const absl::Status status = groups_->Remove(group_, Soon());
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_FALSE(groups_->Exists(group_));
  waitpid(pid, nullptr, 0);
}

TEST_F(GroupTest, MakeAndRemoveMayBeRepeated) {
  EXPECT_TRUE(groups_->Make(group_).ok());
  EXPECT_TRUE(groups_->Remove(group_, Soon()).ok());
  EXPECT_TRUE(groups_->Remove(group_, Soon()).ok());
  EXPECT_TRUE(groups_->KillAll(group_, Soon()).ok());
  EXPECT_TRUE(groups_->Make(group_).ok());
}

// The kubelet makes a pod's group, and enables what it uses itself down to it.
TEST_F(GroupTest, GroupsBelowAParentThatOthersMadeHaveEveryController) {
  const std::string pod = top_ + "/kubepods/pod";
  for (const Hierarchy& hierarchy : groups_->layout().hierarchies) {
    ASSERT_EQ(mkdir(absl::StrCat(hierarchy.mount_point, top_, "/kubepods").c_str(), 0755), 0);
    ASSERT_EQ(mkdir(absl::StrCat(hierarchy.mount_point, pod).c_str(), 0755), 0);
  }
  for (int twice = 0; twice < 2; ++twice) {
    const absl::Status made = groups_->MakeParent(pod);
    ASSERT_TRUE(made.ok()) << made;
  }
  // Without any help from here: as the supervisor makes a container's.
  const Layout& layout = groups_->layout();
  for (const char* controller : {"cpu", "memory", "pids"}) {
    const int hierarchy = layout.Find(controller);
    ASSERT_GE(hierarchy, 0) << controller;
    const std::string child = absl::StrCat(layout.Directory(hierarchy, pod), "/", controller);
    ASSERT_EQ(mkdir(child.c_str(), 0755), 0);
    if (!layout.hierarchies[static_cast<size_t>(hierarchy)].is_v2) continue;
    const auto has = sys::ReadFileAt(AT_FDCWD, child + "/cgroup.controllers", 4096);
    ASSERT_TRUE(has.ok());
    EXPECT_TRUE(absl::StrContains(*has, controller)) << *has;
  }
}

TEST_F(GroupTest, PathsOutsideOfOurGroupsAreRefused) {
  for (const char* path : {"/", "", "/..", "/davit/../process_api"}) {
    EXPECT_EQ(groups_->Remove(path, Soon()).code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_EQ(groups_->KillAll(path, Soon()).code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_EQ(groups_->Make(path).code(), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_EQ(groups_->Enter(path, 1).code(), absl::StatusCode::kInvalidArgument) << path;
  }
}

TEST_F(GroupTest, AFailingWriteNamesItsFileAndOneThatMayFailDoesNot) {
  const int pids = groups_->layout().Find("pids");
  const Write missing{pids, "pids.nothing", "1", kWriteStrict};
  const absl::Status status = groups_->Apply(group_, {&missing, 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("pids.nothing"));
  const Write tolerated{pids, "pids.nothing", "1", kIgnoreMissing};
  EXPECT_TRUE(groups_->Apply(group_, {&tolerated, 1}).ok());
  const Write invalid{pids, "pids.max", "many", kIgnoreMissing};
  EXPECT_EQ(groups_->Apply(group_, {&invalid, 1}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace davit::runtime::cgroup
