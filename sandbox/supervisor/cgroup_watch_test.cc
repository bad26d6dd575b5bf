#include "sandbox/supervisor/cgroup_watch.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

constexpr char kV1Memory[] = "/sys/fs/cgroup/memory";
constexpr char kHybrid[] = "/sys/fs/cgroup/unified";

// A cgroup of the test's own, removed with it.
class TestGroup {
 public:
  explicit TestGroup(const std::string& hierarchy) {
    path_ = absl::StrCat(hierarchy, "/davit-test-watch-", getpid());
    EXPECT_EQ(mkdir(path_.c_str(), 0755), 0) << path_;
  }
  ~TestGroup() {
    for (int i = 0; i < 1000 && rmdir(path_.c_str()) != 0 && errno == EBUSY; ++i) usleep(1000);
  }
  const std::string& path() const { return path_; }
  absl::Status Write(const std::string& file, const std::string& value) const {
    return sys::WriteExistingAt(AT_FDCWD, path_ + "/" + file, value);
  }
  // Runs `body` as a member.
  template <typename Body>
  pid_t Fork(Body body) const {
    const pid_t pid = fork();
    if (pid == 0) {
      if (!Write("cgroup.procs", "0").ok()) _exit(99);
      body();
      _exit(0);
    }
    return pid;
  }
  bool HasMembers() const {
    auto members = sys::ReadFileAt(AT_FDCWD, path_ + "/cgroup.procs", 4096);
    return members.ok() && !members->empty();
  }

 private:
  std::string path_;
};

bool IsV1() { return access(kV1Memory, F_OK) == 0; }
const char* MemoryHierarchy() { return IsV1() ? kV1Memory : "/sys/fs/cgroup"; }
const char* UnifiedHierarchy() { return IsV1() ? kHybrid : "/sys/fs/cgroup"; }

[[noreturn]] void EatMemory() {
  for (;;) {
    void* memory = mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) _exit(98);
  }
}

TEST(CgroupWatchTest, TellsOfAnOomKillAndCountsIt) {
  TestGroup group(MemoryHierarchy());
  ASSERT_TRUE(group.Write(IsV1() ? "memory.limit_in_bytes" : "memory.max", "16777216").ok());
  auto loop = *EventLoop::Create();
  CgroupWatch watch(loop.get());
  watch.Open({group.path()});
  EXPECT_EQ(watch.OomKills(), 0u);
  int told = 0;
  ASSERT_TRUE(watch.Start([&] { ++told; }).ok());
  const pid_t pid = group.Fork([] { EatMemory(); });
  int status;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_EQ(watch.OomKills(), 1u);  // known by the time the end is
  for (int i = 0; i < 100 && told == 0; ++i) loop->RunOnce(absl::Milliseconds(100));
  EXPECT_EQ(told, 1);
}

TEST(CgroupWatchTest, KillAllEndsEveryMemberThroughTheUnifiedGroup) {
  TestGroup group(UnifiedHierarchy());
  auto loop = *EventLoop::Create();
  CgroupWatch watch(loop.get());
  watch.Open({group.path()});
  std::vector<pid_t> pids;
  for (int i = 0; i < 5; ++i) pids.push_back(group.Fork([] { pause(); }));
  while (!group.HasMembers()) usleep(1000);
  for (const pid_t pid : pids) {
    while (*sys::ReadFileAt(AT_FDCWD, absl::StrCat("/proc/", pid, "/cgroup"), 4096) ==
           *sys::ReadFileAt(AT_FDCWD, "/proc/self/cgroup", 4096)) {
      usleep(1000);
    }
  }
  ASSERT_TRUE(watch.KillAll().ok());
  for (const pid_t pid : pids) {
    int status;
    ASSERT_EQ(waitpid(pid, &status, 0), pid);
    EXPECT_EQ(WTERMSIG(status), SIGKILL);
  }
}

TEST(CgroupWatchTest, WithoutCgroupKillMembersAreKilledOneByOne) {
  if (!IsV1()) GTEST_SKIP() << "no v1 hierarchies on this kernel";
  TestGroup group("/sys/fs/cgroup/pids");
  auto loop = *EventLoop::Create();
  CgroupWatch watch(loop.get());
  watch.Open({group.path()});
  const pid_t pid = group.Fork([] { pause(); });
  while (!group.HasMembers()) usleep(1000);
  ASSERT_TRUE(watch.KillAll().ok());
  int status;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_FALSE(group.HasMembers());
}

TEST(CgroupWatchTest, ManyMembersAreKilledOneByOneWithTheZombiesAmongThem) {
  if (!IsV1()) GTEST_SKIP() << "no v1 hierarchies on this kernel";
  TestGroup group("/sys/fs/cgroup/pids");
  auto loop = *EventLoop::Create();
  CgroupWatch watch(loop.get());
  watch.Open({group.path()});
  std::vector<pid_t> pids;
  for (int i = 0; i < 20; ++i) {
    pids.push_back(group.Fork([i] {
      if (i % 2 == 0) _exit(0);
      pause();
    }));
  }
  while (!group.HasMembers()) usleep(1000);
  // Those that are still on their way into the group are caught by a later call.
  for (const pid_t pid : pids) {
    int status;
    while (waitpid(pid, &status, WNOHANG) == 0) {
      ASSERT_TRUE(watch.KillAll().ok());
      usleep(1000);
    }
  }
  EXPECT_FALSE(group.HasMembers());
}

TEST(CgroupWatchTest, NoCgroupsAreNoError) {
  auto loop = *EventLoop::Create();
  CgroupWatch watch(loop.get());
  watch.Open({"/sys/fs/cgroup/does/not/exist"});
  EXPECT_TRUE(watch.Start([] {}).ok());
  EXPECT_TRUE(watch.KillAll().ok());
  EXPECT_EQ(watch.OomKills(), 0u);
}

}  // namespace
}  // namespace davit::sandbox
