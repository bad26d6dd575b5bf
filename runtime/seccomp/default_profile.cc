#include "runtime/seccomp/default_profile.h"

#include <linux/capability.h>
#include <sched.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

namespace davit::runtime::seccomp {
namespace {

constexpr char kAllow[] = "SCMP_ACT_ALLOW";

// Both the names of 64-bit and of 32-bit architectures: those unknown to one are ignored there.
constexpr const char* kFiles[] = {
    "access",
    "chdir",
    "chmod",
    "chown",
    "chown32",
    "close",
    "close_range",
    "copy_file_range",
    "creat",
    "dup",
    "dup2",
    "dup3",
    "faccessat",
    "faccessat2",
    "fadvise64",
    "fadvise64_64",
    "fallocate",
    "fchdir",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchown32",
    "fchownat",
    "fcntl",
    "fcntl64",
    "fdatasync",
    "fgetxattr",
    "flistxattr",
    "flock",
    "fremovexattr",
    "fsetxattr",
    "fstat",
    "fstat64",
    "fstatat64",
    "fstatfs",
    "fstatfs64",
    "fsync",
    "ftruncate",
    "ftruncate64",
    "futimesat",
    "getcwd",
    "getdents",
    "getdents64",
    "getxattr",
    "ioctl",
    "lchown",
    "lchown32",
    "lgetxattr",
    "link",
    "linkat",
    "listxattr",
    "llistxattr",
    "_llseek",
    "lremovexattr",
    "lseek",
    "lsetxattr",
    "lstat",
    "lstat64",
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readahead",
    "readlink",
    "readlinkat",
    "readv",
    "removexattr",
    "rename",
    "renameat",
    "renameat2",
    "rmdir",
    "sendfile",
    "sendfile64",
    "setxattr",
    "splice",
    "stat",
    "stat64",
    "statfs",
    "statfs64",
    "statx",
    "symlink",
    "symlinkat",
    "sync",
    "sync_file_range",
    "sync_file_range2",
    "syncfs",
    "tee",
    "truncate",
    "truncate64",
    "umask",
    "unlink",
    "unlinkat",
    "utime",
    "utimensat",
    "utimensat_time64",
    "utimes",
    "vmsplice",
    "write",
    "writev",
    "cachestat",
};

constexpr const char* kWaiting[] = {
    "epoll_create",
    "epoll_create1",
    "epoll_ctl",
    "epoll_ctl_old",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "epoll_wait_old",
    "eventfd",
    "eventfd2",
    "fanotify_mark",
    "inotify_add_watch",
    "inotify_init",
    "inotify_init1",
    "inotify_rm_watch",
    "io_cancel",
    "io_destroy",
    "io_getevents",
    "io_pgetevents",
    "io_pgetevents_time64",
    "io_setup",
    "io_submit",
    "_newselect",
    "pause",
    "poll",
    "ppoll",
    "ppoll_time64",
    "pselect6",
    "pselect6_time64",
    "select",
    "signalfd",
    "signalfd4",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_gettime64",
    "timerfd_settime",
    "timerfd_settime64",
};

constexpr const char* kMemory[] = {
    "brk",
    "madvise",
    "map_shadow_stack",
    "membarrier",
    "memfd_create",
    "memfd_secret",
    "mincore",
    "mlock",
    "mlock2",
    "mlockall",
    "mmap",
    "mmap2",
    "mprotect",
    "mremap",
    "msync",
    "munlock",
    "munlockall",
    "munmap",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "remap_file_pages",
};

constexpr const char* kProcesses[] = {
    "alarm",
    "capget",
    "capset",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "fork",
    "futex",
    "futex_requeue",
    "futex_time64",
    "futex_wait",
    "futex_waitv",
    "futex_wake",
    "getcpu",
    "getegid",
    "getegid32",
    "geteuid",
    "geteuid32",
    "getgid",
    "getgid32",
    "getgroups",
    "getgroups32",
    "getitimer",
    "getpgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getpriority",
    "getrandom",
    "getresgid",
    "getresgid32",
    "getresuid",
    "getresuid32",
    "getrlimit",
    "get_robust_list",
    "getrusage",
    "getsid",
    "get_thread_area",
    "gettid",
    "getuid",
    "getuid32",
    "ioprio_get",
    "ioprio_set",
    "kill",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "pidfd_open",
    "pidfd_send_signal",
    "prctl",
    "prlimit64",
    "process_mrelease",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigqueueinfo",
    "rt_sigreturn",
    "rt_sigsuspend",
    "rt_sigtimedwait",
    "rt_sigtimedwait_time64",
    "rt_tgsigqueueinfo",
    "sched_getaffinity",
    "sched_getattr",
    "sched_getparam",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_rr_get_interval_time64",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
    "sched_yield",
    "seccomp",
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "setgid",
    "setgid32",
    "setgroups",
    "setgroups32",
    "setitimer",
    "setpgid",
    "setpriority",
    "setregid",
    "setregid32",
    "setresgid",
    "setresgid32",
    "setresuid",
    "setresuid32",
    "setreuid",
    "setreuid32",
    "setrlimit",
    "set_robust_list",
    "setsid",
    "set_thread_area",
    "set_tid_address",
    "setuid",
    "setuid32",
    "sigaltstack",
    "sigprocmask",
    "sigreturn",
    "sysinfo",
    "tgkill",
    "tkill",
    "ugetrlimit",
    "uname",
    "vfork",
    "wait4",
    "waitid",
    "waitpid",
};

constexpr const char* kTime[] = {
    "adjtimex",
    "clock_adjtime",
    "clock_adjtime64",
    "clock_getres",
    "clock_getres_time64",
    "clock_gettime",
    "clock_gettime64",
    "clock_nanosleep",
    "clock_nanosleep_time64",
    "gettimeofday",
    "nanosleep",
    "time",
    "timer_create",
    "timer_delete",
    "timer_getoverrun",
    "timer_gettime",
    "timer_gettime64",
    "timer_settime",
    "timer_settime64",
    "times",
};

constexpr const char* kCommunication[] = {
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "ipc",
    "listen",
    "mq_getsetattr",
    "mq_notify",
    "mq_open",
    "mq_timedreceive",
    "mq_timedreceive_time64",
    "mq_timedsend",
    "mq_timedsend_time64",
    "mq_unlink",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "recv",
    "recvfrom",
    "recvmmsg",
    "recvmmsg_time64",
    "recvmsg",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "semtimedop_time64",
    "send",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
    "shutdown",
    "socketcall",
    "socketpair",
};

// Per-thread registers and segments of the architecture.
constexpr const char* kArchitecture[] = {
#if defined(__x86_64__) || defined(__i386__)
    "arch_prctl",
    "modify_ldt",
#elif defined(__aarch64__) || defined(__arm__)
    "arm_fadvise64_64", "arm_sync_file_range", "breakpoint", "cacheflush", "set_tls",
#elif defined(__s390x__)
    "s390_pci_mmio_read",
    "s390_pci_mmio_write",
    "s390_runtime_instr",
#elif defined(__riscv)
    "riscv_flush_icache",
#endif
};

struct CapabilityGroup {
  int capability;
  std::vector<std::string> names;
};

// What the kernel would refuse without the capability anyway; the filter refuses it first, so that
// the code behind it cannot be reached at all.
const std::vector<CapabilityGroup>& CapabilityGroups() {
  static const auto* const groups = new std::vector<CapabilityGroup>{
      {CAP_DAC_READ_SEARCH, {"name_to_handle_at", "open_by_handle_at"}},
      {CAP_SYS_ADMIN,
       {"bpf",           "clone",         "clone3",      "fanotify_init",   "fsconfig",
        "fsmount",       "fsopen",        "fspick",      "lookup_dcookie",  "mount",
        "mount_setattr", "move_mount",    "open_tree",   "perf_event_open", "quotactl",
        "quotactl_fd",   "setdomainname", "sethostname", "setns",           "syslog",
        "umount",        "umount2",       "unshare"}},
      {CAP_SYS_BOOT, {"reboot"}},
      {CAP_SYS_CHROOT, {"chroot"}},
      {CAP_SYS_MODULE, {"delete_module", "finit_module", "init_module"}},
      {CAP_SYS_PACCT, {"acct"}},
      {CAP_SYS_PTRACE, {"kcmp", "pidfd_getfd", "process_madvise"}},
      {CAP_SYS_RAWIO, {"ioperm", "iopl"}},
      {CAP_SYS_TIME, {"clock_settime", "clock_settime64", "settimeofday", "stime"}},
      {CAP_SYS_TTY_CONFIG, {"vhangup"}},
      {CAP_SYS_NICE, {"get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"}},
      {CAP_SYSLOG, {"syslog"}},
      {CAP_BPF, {"bpf"}},
      {CAP_PERFMON, {"perf_event_open"}},
  };
  return *groups;
}

spec::SeccompRule Rule(std::vector<std::string> names, std::vector<spec::SeccompArg> args = {}) {
  spec::SeccompRule rule;
  rule.names = std::move(names);
  rule.action = kAllow;
  rule.args = std::move(args);
  return rule;
}

template <size_t N>
void Append(const char* const (&from)[N], std::vector<std::string>& to) {
  to.insert(to.end(), from, from + N);
}

// Address families that reach the hypervisor or rarely used kernel cryptography, past every other
// boundary of the container.
constexpr uint64_t kFamilyAlg = 38;
constexpr uint64_t kFamilyVsock = 40;

void AllowSockets(std::vector<spec::SeccompRule>& rules) {
  rules.push_back(Rule({"socket"}, {{0, kFamilyAlg, 0, "SCMP_CMP_LT"}}));
  rules.push_back(Rule({"socket"}, {{0, kFamilyAlg + 1, 0, "SCMP_CMP_EQ"}}));
  rules.push_back(Rule({"socket"}, {{0, kFamilyVsock, 0, "SCMP_CMP_GT"}}));
}

// PER_LINUX and PER_LINUX32, with or without UNAME26, and the query.
void AllowPersonalities(std::vector<spec::SeccompRule>& rules) {
  for (const uint64_t persona : {0x0ULL, 0x8ULL, 0x20000ULL, 0x20008ULL, 0xffffffffULL}) {
    rules.push_back(Rule({"personality"}, {{0, persona, 0, "SCMP_CMP_EQ"}}));
  }
}

// Threads and processes, but no namespaces. clone3 takes its flags through a pointer that a filter
// cannot follow: ENOSYS makes the C library use clone.
void AllowCloneWithoutNamespaces(std::vector<spec::SeccompRule>& rules) {
  constexpr uint64_t kNamespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
                                   CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
#if defined(__s390x__)
  constexpr uint32_t kFlagsArgument = 1;
#else
  constexpr uint32_t kFlagsArgument = 0;
#endif
  rules.push_back(Rule({"clone"}, {{kFlagsArgument, kNamespaces, 0, "SCMP_CMP_MASKED_EQ"}}));
  spec::SeccompRule clone3;
  clone3.names = {"clone3"};
  clone3.action = "SCMP_ACT_ERRNO";
  clone3.errno_ret = ENOSYS;
  rules.push_back(std::move(clone3));
}

}  // namespace

spec::Seccomp DefaultProfile(uint64_t capabilities) {
  auto has = [capabilities](int capability) { return (capabilities >> capability & 1) != 0; };
  spec::Seccomp profile;
  profile.default_action = "SCMP_ACT_ERRNO";
  profile.default_errno_ret = EPERM;
#if defined(__x86_64__)
  // x32 is left out: kernels are built without it, and it doubles what can be called.
  profile.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86"};
#elif defined(__aarch64__)
  profile.architectures = {"SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"};
#endif
  std::vector<std::string> names;
  Append(kFiles, names);
  Append(kWaiting, names);
  Append(kMemory, names);
  Append(kProcesses, names);
  Append(kTime, names);
  Append(kCommunication, names);
  Append(kArchitecture, names);
  for (const CapabilityGroup& group : CapabilityGroups()) {
    if (has(group.capability)) {
      names.insert(names.end(), group.names.begin(), group.names.end());
    }
  }
  profile.syscalls.push_back(Rule(std::move(names)));
  AllowSockets(profile.syscalls);
  AllowPersonalities(profile.syscalls);
  if (!has(CAP_SYS_ADMIN)) AllowCloneWithoutNamespaces(profile.syscalls);
  return profile;
}

}  // namespace davit::runtime::seccomp
