#include "runtime/cgroup/device_bpf.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/cgroup/layout.h"

namespace davit::runtime::cgroup {
namespace {

spec::DeviceCgroupRule Allow(const char* type, std::optional<int64_t> major,
                             std::optional<int64_t> minor, const char* access) {
  return {true, type, major, minor, access};
}
spec::DeviceCgroupRule Deny(const char* type, std::optional<int64_t> major,
                            std::optional<int64_t> minor, const char* access) {
  return {false, type, major, minor, access};
}

TEST(DeviceProgramTest, RulesThatAllowEverythingNeedNoProgram) {
  EXPECT_EQ(*CompileDeviceProgram({}), "");
  EXPECT_EQ(*CompileDeviceProgram({Allow("a", {}, {}, "rwm")}), "");
  EXPECT_EQ(*CompileDeviceProgram(
                {Deny("a", {}, {}, "rwm"), Allow("a", {}, {}, ""), Allow("c", 1, 3, "r")}),
            "");
  EXPECT_NE(*CompileDeviceProgram({Allow("a", {}, {}, "rwm"), Deny("c", 1, 3, "r")}), "");
}

TEST(DeviceProgramTest, MalformedRulesAreRefused) {
  EXPECT_EQ(CompileDeviceProgram({Allow("z", 1, 3, "r")}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CompileDeviceProgram({Allow("c", 1, 3, "q")}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CompileDeviceProgram({Allow("c", -5, 3, "r")}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(CompileDeviceProgram(std::vector<spec::DeviceCgroupRule>(4000, Allow("c", 1, 3, "r")))
                .status()
                .code(),
            absl::StatusCode::kResourceExhausted);
}

// A group of our own in the v2 hierarchy, which takes device programs also where the controllers
// are v1's.
class DeviceAttachTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto layout = DetectLayout();
    ASSERT_TRUE(layout.ok());
    if (layout->Unified() < 0) GTEST_SKIP() << "no cgroup v2 hierarchy on this kernel";
    path_ = layout->Directory(layout->Unified(), absl::StrCat("/davit-test-h2-bpf-", getpid()));
    ASSERT_EQ(mkdir(path_.c_str(), 0755), 0);
    group_.reset(open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(group_.ok());
  }
  void TearDown() override {
    if (path_.empty()) return;
    while (rmdir(path_.c_str()) != 0 && errno == EBUSY) {
    }
  }

  void Load(const std::vector<spec::DeviceCgroupRule>& rules) {
    auto program = CompileDeviceProgram(rules);
    ASSERT_TRUE(program.ok()) << program.status();
    auto fd = LoadDeviceProgram(*program);
    ASSERT_TRUE(fd.ok()) << fd.status();
    const absl::Status replaced = ReplaceDeviceProgram(group_.get(), fd->get());
    ASSERT_TRUE(replaced.ok()) << replaced;
  }

  // The errno of opening `path` from inside the group, 0 for success.
  int Open(const char* path, int flags) {
    return InGroup([&] { return open(path, flags | O_CLOEXEC) < 0 ? errno : 0; });
  }
  int MakeNode(mode_t type, unsigned major, unsigned minor) {
    const std::string node = absl::StrCat("/tmp/davit-node-", getpid());
    return InGroup([&] {
      const int error = mknod(node.c_str(), type | 0600, makedev(major, minor)) != 0 ? errno : 0;
      unlink(node.c_str());
      return error;
    });
  }
  int InGroup(const std::function<int()>& body) {
    const pid_t pid = fork();
    if (pid == 0) {
      const int procs = openat(group_.get(), "cgroup.procs", O_WRONLY | O_CLOEXEC);
      if (write(procs, "0", 1) != 1) _exit(255);
      _exit(body());
    }
    int status = 0;
    EXPECT_EQ(waitpid(pid, &status, 0), pid);
    return WEXITSTATUS(status);
  }

  std::string path_;
  sys::UniqueFd group_;
};

TEST_F(DeviceAttachTest, OnlyWhatIsAllowedCanBeOpened) {
  Load({Deny("a", {}, {}, "rwm"), Allow("c", 1, 3, "rw"), Allow("c", 1, 5, "r")});
  EXPECT_EQ(Open("/dev/null", O_RDWR), 0);
  EXPECT_EQ(Open("/dev/zero", O_RDONLY), 0);
  EXPECT_EQ(Open("/dev/zero", O_RDWR), EPERM);
  EXPECT_EQ(Open("/dev/full", O_RDONLY), EPERM);
  EXPECT_EQ(MakeNode(S_IFCHR, 1, 3), EPERM);
}

TEST_F(DeviceAttachTest, TheLastMatchingRuleDecides) {
  Load({Deny("a", {}, {}, "rwm"), Allow("c", 1, {}, "rwm"), Deny("c", 1, 5, "w")});
  EXPECT_EQ(Open("/dev/null", O_RDWR), 0);
  EXPECT_EQ(Open("/dev/zero", O_RDONLY), 0);
  EXPECT_EQ(Open("/dev/zero", O_WRONLY), EPERM);
  EXPECT_EQ(Open("/dev/zero", O_RDWR), EPERM);
  Load({Deny("c", 1, 5, "w"), Allow("c", 1, {}, "rwm")});
  EXPECT_EQ(Open("/dev/zero", O_RDWR), 0);
}

TEST_F(DeviceAttachTest, KindsOfAccessAllowedByDifferentRulesAddUp) {
  Load({Deny("a", {}, {}, "rwm"), Allow("c", 1, 3, "r"), Allow("c", 1, {}, "w")});
  EXPECT_EQ(Open("/dev/null", O_RDWR), 0);
  EXPECT_EQ(Open("/dev/zero", O_RDWR), EPERM);
  EXPECT_EQ(Open("/dev/zero", O_WRONLY), 0);
}

TEST_F(DeviceAttachTest, TypesAreToldApart) {
  Load({Deny("a", {}, {}, "rwm"), Allow("b", {}, {}, "m")});
  EXPECT_EQ(MakeNode(S_IFBLK, 7, 200), 0);
  EXPECT_EQ(MakeNode(S_IFCHR, 7, 200), EPERM);
}

TEST_F(DeviceAttachTest, AProgramIsReplacedInOneStepAndTakenAway) {
  Load({Deny("a", {}, {}, "rwm")});
  const auto first = ListDevicePrograms(group_.get());
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->size(), 1u);
  EXPECT_EQ(Open("/dev/null", O_RDWR), EPERM);
  Load({Deny("a", {}, {}, "rwm"), Allow("c", 1, 3, "rw")});
  const auto second = ListDevicePrograms(group_.get());
  ASSERT_EQ(second->size(), 1u);
  EXPECT_NE(first->front(), second->front());
  EXPECT_EQ(Open("/dev/null", O_RDWR), 0);

  // With several attached (by others, say) all go, and the new one stays.
  auto extra = LoadDeviceProgram(*CompileDeviceProgram({Deny("a", {}, {}, "rwm")}));
  ASSERT_TRUE(AttachDeviceProgram(group_.get(), extra->get()).ok());
  EXPECT_EQ(ListDevicePrograms(group_.get())->size(), 2u);
  Load({Deny("a", {}, {}, "rwm"), Allow("c", 1, 3, "rw")});
  EXPECT_EQ(ListDevicePrograms(group_.get())->size(), 1u);
  EXPECT_EQ(Open("/dev/null", O_RDWR), 0);

  ASSERT_TRUE(ReplaceDeviceProgram(group_.get(), -1).ok());
  EXPECT_TRUE(ListDevicePrograms(group_.get())->empty());
  EXPECT_EQ(Open("/dev/zero", O_RDWR), 0);
}

TEST_F(DeviceAttachTest, ABrokenProgramIsRefusedWithTheVerifiersWords) {
  std::string nonsense(16, '\xff');
  const auto fd = LoadDeviceProgram(nonsense);
  EXPECT_FALSE(fd.ok());
  EXPECT_FALSE(LoadDeviceProgram("").ok());
}

}  // namespace
}  // namespace davit::runtime::cgroup
