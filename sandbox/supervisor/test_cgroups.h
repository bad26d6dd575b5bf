#ifndef DAVIT_SANDBOX_SUPERVISOR_TEST_CGROUPS_H_
#define DAVIT_SANDBOX_SUPERVISOR_TEST_CGROUPS_H_

#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "proto/supervisor.pb.h"
#include "runtime/plan/compile.h"
#include "runtime/sys/capability.h"
#include "runtime/sys/features.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/spawn.h"
#include "sandbox/status_record.h"

// Small helpers of the supervisor's tests, and the cgroups that they use.
namespace davit::sandbox {

using runtime::spec::NamespaceType;
using supervisor::v1::ContainerState;
using supervisor::v1::FromSupervisor;
using supervisor::v1::PodConfig;
using supervisor::v1::Reply;
using supervisor::v1::ToSupervisor;

constexpr absl::Duration kPatience = absl::Seconds(20);

inline const sys::KernelFeatures& Features() {
  static const sys::KernelFeatures features = sys::ProbeKernel();
  return features;
}

inline std::string ReadFile(const std::string& path) {
  auto data = sys::ReadFileAt(AT_FDCWD, path, size_t{64} << 20);
  return data.ok() ? *data : std::string();
}

inline bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

inline std::string LinkOf(const std::string& path) {
  char target[4096];
  const ssize_t n = readlink(path.c_str(), target, sizeof target);
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

// Waits for something that no descriptor announces.
inline bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 4000; ++i) {
    if (condition()) return true;
    usleep(5000);
  }
  return false;
}

inline sys::UniqueFd Memfd(const std::string& name, const std::string& data) {
  auto fd = sys::SealedMemfd(name.c_str(), data);
  EXPECT_TRUE(fd.ok()) << fd.status();
  return fd.ok() ? *std::move(fd) : sys::UniqueFd();
}

// The test's groups in the hierarchies that it uses, removed at the end.
class Cgroups {
 public:
  Cgroups() {
    const bool v1 = Exists("/sys/fs/cgroup/memory");
    if (v1) {
      for (const char* name : {"memory", "pids"}) Add(absl::StrCat("/sys/fs/cgroup/", name), false);
      Add("/sys/fs/cgroup/unified", true);
    } else {
      Add("/sys/fs/cgroup", true);
      sys::WriteExistingAt(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", "+memory")
          .IgnoreError();
      sys::WriteExistingAt(AT_FDCWD, groups_[0].path + "/cgroup.subtree_control", "+memory")
          .IgnoreError();
    }
    EXPECT_EQ(mkdir(init_group().c_str(), 0755), 0) << init_group();
  }
  ~Cgroups() {
    std::vector<std::string> paths = {init_group()};
    for (const auto& group : groups_) paths.push_back(group.path);
    for (const std::string& path : paths) {
      EXPECT_TRUE(Eventually([&] { return rmdir(path.c_str()) == 0 || errno == ENOENT; }))
          << path << " is still busy";
    }
  }
  std::vector<runtime::plan::CgroupDirectory> Of(const std::string& container,
                                                 int64_t memory_limit) const {
    std::vector<runtime::plan::CgroupDirectory> result;
    for (runtime::plan::CgroupDirectory group : groups_) {
      const bool v1_memory = absl::StrContains(group.path, "/memory/");
      group.path += "/" + container;
      if (memory_limit > 0 && (v1_memory || groups_.size() == 1)) {
        group.writes.push_back({v1_memory ? "memory.limit_in_bytes" : "memory.max",
                                absl::StrCat(memory_limit), false});
      }
      result.push_back(group);
    }
    return result;
  }
  std::string unified() const { return groups_.back().path; }
  // For a pod's first process, beside the others: on v2 a group whose children have controllers
  // takes no process itself.
  std::string init_group() const { return unified() + "-init"; }
  // Every group beneath the test's own.
  std::vector<std::string> Children() const {
    std::vector<std::string> children;
    for (const auto& group : groups_) {
      auto found = sys::RunCommand(
          {.path = "/usr/bin/find", .argv = {"find", group.path, "-mindepth", "1", "-type", "d"}},
          "", 1 << 20, absl::Now() + kPatience);
      for (absl::string_view line : absl::StrSplit(found->out, '\n', absl::SkipEmpty())) {
        children.emplace_back(line);
      }
    }
    return children;
  }

 private:
  void Add(const std::string& hierarchy, bool unified) {
    runtime::plan::CgroupDirectory group;
    group.path = absl::StrCat(hierarchy, "/davit-test-supervisor-", getpid());
    group.unified = unified;
    EXPECT_EQ(mkdir(group.path.c_str(), 0755), 0) << group.path;
    groups_.push_back(group);
  }
  std::vector<runtime::plan::CgroupDirectory> groups_;
};

// A file system whose server never answers: every look-up in it hangs until the one who asks is
// killed, as on a dead NFS server.
class HungFileSystem {
 public:
  explicit HungFileSystem(const std::string& path) : path_(path) {
    device_.reset(open("/dev/fuse", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(device_.ok());
    EXPECT_EQ(mkdir(path.c_str(), 0755), 0);
    const std::string options =
        absl::StrCat("fd=", device_.get(), ",rootmode=40000,user_id=0,group_id=0");
    EXPECT_EQ(mount("hung", path.c_str(), "fuse", 0, options.c_str()), 0);
  }
  ~HungFileSystem() {
    EXPECT_EQ(umount2(path_.c_str(), MNT_DETACH), 0);
    device_.reset();
  }

 private:
  std::string path_;
  sys::UniqueFd device_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_TEST_CGROUPS_H_
