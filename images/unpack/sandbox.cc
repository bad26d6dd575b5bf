#include "images/unpack/sandbox.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::images::unpack {
namespace {

constexpr uint64_t kAllowedCapabilities = 1ull << CAP_CHOWN | 1ull << CAP_FOWNER |
                                          1ull << CAP_FSETID | 1ull << CAP_DAC_OVERRIDE |
                                          1ull << CAP_SETFCAP;
constexpr int kNice = 10;

absl::Status Step(bool ok, absl::string_view what) {
  return ok ? absl::OkStatus() : sys::ErrnoStatus(errno, absl::StrCat("unpack sandbox: ", what));
}

absl::Status Limit(__rlimit_resource resource, rlim_t value) {
  rlimit limit;
  DAVIT_RETURN_IF_ERROR(Step(getrlimit(resource, &limit) == 0, "getrlimit"));
  limit.rlim_max = std::min(limit.rlim_max, value);
  limit.rlim_cur = limit.rlim_max;
  return Step(setrlimit(resource, &limit) == 0, "setrlimit");
}

absl::Status LowerProcess() {
  DAVIT_RETURN_IF_ERROR(Step(prctl(PR_SET_DUMPABLE, 0) == 0, "make non-dumpable"));
  DAVIT_RETURN_IF_ERROR(Step(setpriority(PRIO_PROCESS, 0, kNice) == 0, "setpriority"));
  DAVIT_RETURN_IF_ERROR(Limit(RLIMIT_CORE, 0));
  DAVIT_RETURN_IF_ERROR(Limit(RLIMIT_NOFILE, 1024));
#if !defined(DAVIT_SANITIZED)  // a sanitizer maps terabytes
  DAVIT_RETURN_IF_ERROR(Limit(RLIMIT_AS, 1ull << 30));
#endif
  umask(0);
  return absl::OkStatus();
}

absl::StatusOr<sys::UniqueFd> EnterStaging(int staging_fd) {
  // Before leaving the host's namespace: afterwards the descriptor's mount is a foreign one, which
  // cannot be cloned.
  sys::UniqueFd tree(
      open_tree(staging_fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC));
  DAVIT_RETURN_IF_ERROR(Step(tree.ok(), "clone the staging directory's mount"));
  DAVIT_RETURN_IF_ERROR(Step(unshare(CLONE_NEWNS) == 0, "unshare the mount namespace"));
  // Nothing of what follows may travel back to the host's namespace.
  DAVIT_RETURN_IF_ERROR(
      Step(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0, "make / private"));
  // A clone of a shared mount is its peer, and a shared mount cannot be pivoted away from.
  mount_attr attributes{};
  attributes.propagation = MS_PRIVATE;
  attributes.attr_set =
      MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;
  DAVIT_RETURN_IF_ERROR(
      Step(mount_setattr(tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0,
           "set the staging mount's attributes"));
  DAVIT_RETURN_IF_ERROR(
      Step(move_mount(tree.get(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) == 0,
           "attach the staging mount"));
  DAVIT_RETURN_IF_ERROR(Step(fchdir(tree.get()) == 0, "enter the staging directory"));
  DAVIT_RETURN_IF_ERROR(Step(syscall(SYS_pivot_root, ".", ".") == 0, "pivot_root"));
  DAVIT_RETURN_IF_ERROR(Step(umount2(".", MNT_DETACH) == 0, "detach the old root"));
  DAVIT_RETURN_IF_ERROR(Step(chdir("/") == 0, "chdir /"));
  sys::UniqueFd root(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  DAVIT_RETURN_IF_ERROR(Step(root.ok(), "open the new root"));
  return root;
}

absl::Status DropCapabilities() {
  for (int capability = 0; capability <= CAP_LAST_CAP; ++capability) {
    if ((kAllowedCapabilities >> capability & 1) != 0) continue;
    if (prctl(PR_CAPBSET_DROP, capability) != 0 && errno != EINVAL) {
      return Step(false, "drop a capability from the bounding set");
    }
  }
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  DAVIT_RETURN_IF_ERROR(Step(syscall(SYS_capget, &header, data) == 0, "capget"));
  for (int word = 0; word < 2; ++word) {
    data[word].permitted &= static_cast<uint32_t>(kAllowedCapabilities >> (32 * word));
    data[word].effective = data[word].permitted;
    data[word].inheritable = 0;
  }
  DAVIT_RETURN_IF_ERROR(Step(syscall(SYS_capset, &header, data) == 0, "capset"));
  return Step(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "set no_new_privs");
}

// Names, not numbers: one that an architecture lacks is left out.
constexpr const char* kAllowedCalls[] = {
    // Files beneath the root.
    "openat", "openat2", "close", "read", "write", "pwrite64", "writev", "lseek", "ftruncate",
    "fstat", "newfstatat", "statx", "getdents64", "mkdirat", "symlinkat", "linkat", "unlinkat",
    "renameat", "renameat2", "readlinkat", "fchown", "fchownat", "fchmod", "fchmodat", "utimensat",
    "fsetxattr", "fcntl", "sync_file_range",
    // The socket that was there at the start.
    "sendto", "recvfrom", "sendmsg", "recvmsg", "poll", "ppoll",
    // Memory, threads, time, and an orderly end.
    "munmap", "mremap", "madvise", "brk", "futex", "sched_yield", "nanosleep", "clock_nanosleep",
    "clock_gettime", "gettimeofday", "getrandom", "gettid", "getpid", "rt_sigprocmask",
    "rt_sigreturn", "rt_sigaction", "sigaltstack", "restart_syscall", "rseq", "set_robust_list",
    "tgkill", "exit", "exit_group",
#if defined(DAVIT_SANITIZED)
    // Asked by ASan of each thread that starts, and by UBSan before it reads an object's type.
    "sched_getaffinity", "pipe2",
#endif
    // A contended absl::Mutex asks for its thread's priority.
    "sched_getparam", "sched_getscheduler"};

struct Release {
  void operator()(void* context) const { seccomp_release(context); }
};

}  // namespace

absl::StatusOr<sys::UniqueFd> Confine(int staging_fd) {
  DAVIT_RETURN_IF_ERROR(LowerProcess());
  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd root, EnterStaging(staging_fd));
  DAVIT_RETURN_IF_ERROR(DropCapabilities());
  return root;
}

absl::Status RestrictSystemCalls() {
  const std::unique_ptr<void, Release> filter(seccomp_init(SCMP_ACT_ERRNO(EPERM)));
  if (filter == nullptr) return absl::InternalError("unpack sandbox: no memory for seccomp");
  // All threads get it; they were started before, so that clone need not be allowed.
  int error = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1);
  if (error == 0) error = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_NNP, 0);
  for (const char* name : kAllowedCalls) {
    if (error != 0) break;
    const int number = seccomp_syscall_resolve_name(name);
    if (number >= 0) error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, number, 0);
  }
  if (error == 0) {
    error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  }
  if (error == 0) {
    error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  }
  if (error == 0) {
    error = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(mknodat), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, S_IFMT, S_IFIFO));
  }
  if (error == 0) error = seccomp_load(filter.get());
  if (error != 0) return sys::ErrnoStatus(-error, "unpack sandbox: load the seccomp filter");
  return absl::OkStatus();
}

}  // namespace davit::images::unpack
