// davit-init: PID 1 of a pod whose containers share a PID namespace. It reaps what is orphaned
// there and does nothing else. It is inside the containers' reach, so it holds nothing worth
// reaching: it is started from a sealed memfd with descriptor 0 only, gives up its root, its
// descriptors, its capabilities and nearly every system call, writes one byte to descriptor 0, and
// then waits for ever. As a PID 1 without signal handlers it ends by SIGKILL from outside only
// (man 7 pid_namespaces).
//
// It is linked with no library at all: a pod pays a few pages for it, and there is no loader, heap
// or environment to attack. Exit codes say which step failed.

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

namespace {

#if defined(__x86_64__)
constexpr uint32_t kArch = AUDIT_ARCH_X86_64;
long Syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
               : "rcx", "r11", "memory");
  return result;
}
#elif defined(__aarch64__)
constexpr uint32_t kArch = AUDIT_ARCH_AARCH64;
long Syscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0) {
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
  return x0;
}
#else
#error "davit-init: no system call convention for this architecture"
#endif

long Address(const void* pointer) { return reinterpret_cast<long>(pointer); }

constexpr int kAtFdcwd = -100;
constexpr long kMsPrivate = 1 << 18;
constexpr long kMsRecursive = 1 << 14;
constexpr long kMntDetach = 2;
constexpr long kSigBlock = 0;
constexpr long kSigchld = 17;
constexpr long kWaitNoHang = 1;
constexpr long kWaitAll = 0x40000000;  // __WALL
constexpr long kNobody = 65534;

void Must(long result, int step) {
  if (result < 0) Syscall(SYS_exit_group, 100 + step);
}

// An empty, read-only tmpfs becomes the root of a private mount namespace.
void EmptyRoot() {
  Must(Syscall(SYS_mount, 0, Address("/"), 0, kMsRecursive | kMsPrivate, 0), 1);
  const long fs = Syscall(SYS_fsopen, Address("tmpfs"), FSOPEN_CLOEXEC);
  Must(fs, 2);
  Must(Syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, Address("size"), Address("4k"), 0), 3);
  Must(Syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0), 4);
  const long root =
      Syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC,
              MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  Must(root, 5);
  Must(Syscall(SYS_move_mount, root, Address(""), kAtFdcwd, Address("/"), MOVE_MOUNT_F_EMPTY_PATH),
       6);
  Must(Syscall(SYS_fchdir, root), 7);
  Must(Syscall(SYS_pivot_root, Address("."), Address(".")), 8);
  Must(Syscall(SYS_umount2, Address("."), kMntDetach), 9);
  Must(Syscall(SYS_chdir, Address("/")), 10);
}

void DropPrivileges() {
  for (long capability = 0; capability < 64; ++capability) {
    if (Syscall(SYS_prctl, PR_CAPBSET_DROP, capability) < 0) break;  // EINVAL: beyond the last
  }
  // An unmapped id, in a user namespace, is no loss: the capabilities go in any case.
  Syscall(SYS_setgroups, 0, 0);
  Syscall(SYS_setresgid, kNobody, kNobody, kNobody);
  Syscall(SYS_setresuid, kNobody, kNobody, kNobody);
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  Must(Syscall(SYS_capset, Address(&header), Address(none)), 11);
  Must(Syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 12);
  Must(Syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0), 13);
}

void LimitSystemCalls() {
  constexpr uint32_t kNumber = offsetof(seccomp_data, nr);
  constexpr uint32_t kArchOffset = offsetof(seccomp_data, arch);
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kArchOffset),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArch, 0, 6),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, kNumber),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_wait4, 5, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigtimedwait, 4, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_restart_syscall, 3, 0),
      // For the report, which comes last; afterwards there is no descriptor to use them on.
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_close, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program = {sizeof filter / sizeof filter[0], filter};
  Must(Syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, Address(&program)), 14);
}

[[noreturn]] void Reap() {
  const uint64_t mask = 1ull << (kSigchld - 1);
  for (;;) {
    while (Syscall(SYS_wait4, -1, 0, kWaitNoHang | kWaitAll, 0) > 0) {
    }
    // SIGCHLD is blocked, so one that came since is waiting here.
    Syscall(SYS_rt_sigtimedwait, Address(&mask), 0, 0, sizeof mask);
  }
}

}  // namespace

#if defined(__x86_64__)
// The kernel enters with an aligned stack and no return address; a function expects neither.
#define DAVIT_ENTRY [[noreturn, gnu::force_align_arg_pointer]]
#else
#define DAVIT_ENTRY [[noreturn]]
#endif

extern "C" DAVIT_ENTRY void _start() {
  const uint64_t every_signal = ~0ull;
  Syscall(SYS_rt_sigprocmask, kSigBlock, Address(&every_signal), 0, sizeof every_signal);
  Syscall(SYS_prctl, PR_SET_NAME, Address("davit-init"));
  Syscall(SYS_setsid);
  EmptyRoot();
  DropPrivileges();
  Must(Syscall(SYS_close_range, 1, ~0u, 0), 15);
  LimitSystemCalls();
  // Only now: no container may meet an init that is not confined yet.
  Syscall(SYS_write, 0, Address("r"), 1);
  Syscall(SYS_close, 0);
  Reap();
}
