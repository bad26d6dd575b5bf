#include "images/unpack/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>

#include "images/unpack/beneath.h"
#include "images/unpack/testing/tree_listing.h"

namespace davit::images::unpack {
namespace {

using testing::TempDir;

// Runs `probe` in a confined child; its result is the child's exit status.
int Confined(const TempDir& staging, bool restrict, const std::function<int(int root)>& probe) {
  const pid_t pid = fork();
  if (pid == 0) {
    auto root = Confine(staging.fd());
    if (!root.ok()) {
      fprintf(stderr, "%s\n", root.status().ToString().c_str());
      _exit(120);
    }
    if (restrict) {
      if (const absl::Status status = RestrictSystemCalls(); !status.ok()) {
        fprintf(stderr, "%s\n", status.ToString().c_str());
        _exit(121);
      }
    }
    _exit(probe(root->get()));
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 200 + WTERMSIG(status);
}

// 0 if `result` failed with `error`.
int FailsWith(long result, int error) { return result < 0 && errno == error ? 0 : 1; }

TEST(UnpackSandbox, SeesNothingButTheStagingDirectory) {
  TempDir staging;
  ASSERT_EQ(mkdirat(staging.fd(), "etc", 0755), 0);
  EXPECT_EQ(Confined(staging, false,
                     [](int root) {
                       if (FailsWith(open("/etc/passwd", O_RDONLY), ENOENT)) return 1;
                       if (FailsWith(open("/proc/self/status", O_RDONLY), ENOENT)) return 2;
                       if (FailsWith(openat(root, "../etc/passwd", O_RDONLY), ENOENT)) return 3;
                       if (open("/etc", O_RDONLY | O_DIRECTORY) < 0) return 4;
                       return 0;
                     }),
            0);
}

// systemd makes every mount of a node shared.
TEST(UnpackSandbox, StagesOnASharedMount) {
  TempDir staging;
  const pid_t pid = fork();
  if (pid == 0) {
    if (unshare(CLONE_NEWNS) != 0) _exit(1);
    if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(2);
    if (mount(nullptr, "/", nullptr, MS_REC | MS_SHARED, nullptr) != 0) _exit(3);
    const sys::UniqueFd fd(open(staging.path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const auto root = Confine(fd.get());
    if (!root.ok()) fprintf(stderr, "%s\n", root.status().ToString().c_str());
    _exit(root.ok() ? 0 : 4);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(UnpackSandbox, LeavesNoMountBehindOnTheHost) {
  TempDir staging;
  EXPECT_EQ(Confined(staging, true, [](int) { return 0; }), 0);
  struct stat inside;
  struct stat parent;
  ASSERT_EQ(stat(staging.path().c_str(), &inside), 0);
  ASSERT_EQ(stat((staging.path() + "/..").c_str(), &parent), 0);
  EXPECT_EQ(inside.st_dev, parent.st_dev);
  EXPECT_EQ(umount2(staging.path().c_str(), UMOUNT_NOFOLLOW), -1);
}

TEST(UnpackSandbox, FollowsNoLinkAndRunsNothingFromTheStagingDirectory) {
  TempDir staging;
  ASSERT_EQ(symlinkat("/", staging.fd(), "l"), 0);
  close(openat(staging.fd(), "x", O_CREAT | O_WRONLY, 0755));
  EXPECT_EQ(Confined(staging, false,
                     [](int) {
                       if (FailsWith(open("/l/x", O_RDONLY), ELOOP)) return 1;
                       return FailsWith(execl("/x", "x", nullptr), EACCES);
                     }),
            0);
}

TEST(UnpackSandbox, KeepsFiveCapabilitiesAndCannotGainOthers) {
  TempDir staging;
  EXPECT_EQ(Confined(staging, false,
                     [](int root) {
                       if (FailsWith(mknodat(root, "w", S_IFCHR, makedev(1, 3)), EPERM)) return 1;
                       if (FailsWith(mount("x", "/", "tmpfs", 0, nullptr), EPERM)) return 2;
                       if (FailsWith(syscall(SYS_setns, root, 0), EPERM) && errno != EINVAL)
                         return 3;
                       close(openat(root, "f", O_CREAT | O_WRONLY, 0600));
                       if (fchownat(root, "f", 1, 1, 0) != 0) return 4;
                       if (fchmodat(root, "f", 04755, 0) != 0) return 5;
                       if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 6;
                       if (prctl(PR_CAPBSET_READ, 21 /* CAP_SYS_ADMIN */) != 0) return 7;
                       if (getpriority(PRIO_PROCESS, 0) != 10) return 8;
                       return 0;
                     }),
            0);
}

TEST(UnpackSandbox, BlocksEverySystemCallThatItDoesNotNeed) {
  TempDir staging;
  EXPECT_EQ(Confined(staging, true,
                     [](int root) {
                       if (FailsWith(socket(AF_UNIX, SOCK_STREAM, 0), EPERM)) return 1;
                       if (FailsWith(syscall(SYS_fork), EPERM)) return 2;
                       if (FailsWith(syscall(SYS_clone, 0, 0, 0, 0, 0), EPERM)) return 3;
                       if (FailsWith(execl("/x", "x", nullptr), EPERM)) return 4;
                       if (FailsWith(unshare(CLONE_NEWUSER), EPERM)) return 5;
                       if (FailsWith(syscall(SYS_chroot, "/"), EPERM)) return 6;
                       if (FailsWith(mknodat(root, "w", S_IFCHR, makedev(1, 3)), EPERM)) return 7;
                       if (FailsWith(mknodat(root, "w", S_IFCHR, 0), EPERM)) return 8;
                       if (FailsWith(syscall(SYS_ptrace, 0, 1, 0, 0), EPERM)) return 9;
                       if (FailsWith(syscall(SYS_bpf, 0, 0, 0), EPERM)) return 10;
                       if (FailsWith(syscall(SYS_io_uring_setup, 1, 0), EPERM)) return 11;
                       if (FailsWith(kill(1, 0), EPERM)) return 12;
                       if (FailsWith(syscall(SYS_open_tree, root, "", 0), EPERM)) return 13;
                       if (mmap(nullptr, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) {
                         return 14;
                       }
                       void* const page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                       if (page == MAP_FAILED) return 15;
                       if (FailsWith(mprotect(page, 4096, PROT_READ | PROT_EXEC), EPERM)) return 16;
                       return 0;
                     }),
            0);
}

TEST(UnpackSandbox, AllowsWhatWritingALayerNeeds) {
  TempDir staging;
  EXPECT_EQ(Confined(staging, true,
                     [](int root) {
                       if (mkdirat(root, "d", 0755) != 0) return 1;
                       const int fd = openat(root, "d/f", O_CREAT | O_EXCL | O_WRONLY, 0644);
                       if (fd < 0 || pwrite(fd, "x", 1, 0) != 1 || ftruncate(fd, 10) != 0) return 2;
                       const timespec times[2] = {{1, 1}, {2, 2}};
                       if (fchown(fd, 1, 1) != 0 || fchmod(fd, 0600) != 0) return 3;
                       if (futimens(fd, times) != 0) return 4;
                       if (symlinkat("/x", root, "l") != 0) return 5;
                       if (linkat(root, "d/f", root, "h", 0) != 0) return 6;
                       if (mknodat(root, "p", S_IFIFO | 0600, 0) != 0) return 7;
                       if (unlinkat(root, "h", 0) != 0) return 8;
                       if (!OpenBeneath(root, "d", O_RDONLY | O_DIRECTORY).ok()) return 9;
                       char* const big = new char[64 << 20];
                       big[1 << 20] = 1;
                       delete[] big;
                       return 0;
                     }),
            0);
}

}  // namespace
}  // namespace davit::images::unpack
