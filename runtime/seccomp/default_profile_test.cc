#include "runtime/seccomp/default_profile.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/seccomp/bpf_interpreter.h"
#include "runtime/seccomp/compile.h"

namespace davit::runtime::seccomp {
namespace {

constexpr uint32_t kDenied = SECCOMP_RET_ERRNO | EPERM;

uint64_t Bit(int capability) { return uint64_t{1} << capability; }

uint32_t Answer(uint64_t capabilities, uint32_t number, std::vector<uint64_t> arguments = {}) {
  static auto* const compiled = new std::map<uint64_t, std::string>;
  std::string& bpf = (*compiled)[capabilities];
  if (bpf.empty()) {
    const auto program = Compile(DefaultProfile(capabilities));
    EXPECT_TRUE(program.ok()) << program.status();
    bpf = program->bpf;
  }
  return Evaluate(bpf, seccomp_arch_native(), number, std::move(arguments));
}

TEST(DefaultProfileTest, OrdinaryCallsAreAllowed) {
  for (const uint32_t number : {SYS_read, SYS_openat, SYS_execve, SYS_mmap, SYS_futex, SYS_ptrace,
                                SYS_epoll_pwait2, SYS_statx, SYS_rseq, SYS_landlock_add_rule}) {
    EXPECT_EQ(Answer(0, number), SECCOMP_RET_ALLOW) << number;
  }
}

TEST(DefaultProfileTest, WhatReachesTheHostIsRefusedWithoutItsCapability) {
  const struct {
    uint32_t number;
    int capability;
  } cases[] = {
      {SYS_mount, CAP_SYS_ADMIN},         {SYS_umount2, CAP_SYS_ADMIN},
      {SYS_unshare, CAP_SYS_ADMIN},       {SYS_setns, CAP_SYS_ADMIN},
      {SYS_sethostname, CAP_SYS_ADMIN},   {SYS_fsopen, CAP_SYS_ADMIN},
      {SYS_reboot, CAP_SYS_BOOT},         {SYS_chroot, CAP_SYS_CHROOT},
      {SYS_finit_module, CAP_SYS_MODULE}, {SYS_acct, CAP_SYS_PACCT},
      {SYS_kcmp, CAP_SYS_PTRACE},         {SYS_clock_settime, CAP_SYS_TIME},
      {SYS_vhangup, CAP_SYS_TTY_CONFIG},  {SYS_mbind, CAP_SYS_NICE},
      {SYS_syslog, CAP_SYSLOG},           {SYS_bpf, CAP_BPF},
      {SYS_perf_event_open, CAP_PERFMON}, {SYS_open_by_handle_at, CAP_DAC_READ_SEARCH},
  };
  for (const auto& [number, capability] : cases) {
    EXPECT_EQ(Answer(0, number), kDenied) << number;
    EXPECT_EQ(Answer(Bit(capability), number), SECCOMP_RET_ALLOW) << number;
    // Another capability does not help.
    EXPECT_EQ(Answer(Bit(CAP_CHOWN) | Bit(CAP_NET_RAW), number), kDenied) << number;
  }
}

TEST(DefaultProfileTest, SomeCallsAreRefusedWhateverTheCapabilities) {
  for (const uint32_t number : {SYS_keyctl, SYS_add_key, SYS_request_key, SYS_userfaultfd,
                                SYS_kexec_load, SYS_swapon, SYS_pivot_root, SYS_io_uring_setup}) {
    EXPECT_EQ(Answer(~uint64_t{0}, number), kDenied) << number;
  }
}

TEST(DefaultProfileTest, NamespacesAreForTheAdministratorOnly) {
  EXPECT_EQ(Answer(0, SYS_clone, {SIGCHLD}), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Answer(0, SYS_clone, {CLONE_VM | CLONE_THREAD}), SECCOMP_RET_ALLOW);
  for (const uint64_t flag : {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID,
                              CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC}) {
    EXPECT_EQ(Answer(0, SYS_clone, {flag | SIGCHLD}), kDenied) << flag;
    EXPECT_EQ(Answer(Bit(CAP_SYS_ADMIN), SYS_clone, {flag}), SECCOMP_RET_ALLOW) << flag;
  }
  EXPECT_EQ(Answer(0, SYS_clone3), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(Answer(Bit(CAP_SYS_ADMIN), SYS_clone3), SECCOMP_RET_ALLOW);
}

TEST(DefaultProfileTest, SocketsButThoseOfTheHypervisorAndKernelCryptography) {
  for (const uint64_t family : {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK, AF_PACKET, AF_XDP}) {
    EXPECT_EQ(Answer(0, SYS_socket, {family}), SECCOMP_RET_ALLOW) << family;
  }
  EXPECT_EQ(Answer(0, SYS_socket, {AF_VSOCK}), kDenied);
  EXPECT_EQ(Answer(0, SYS_socket, {AF_ALG}), kDenied);
}

TEST(DefaultProfileTest, PersonalitiesThatWeakenTheAddressSpaceAreRefused) {
  EXPECT_EQ(Answer(0, SYS_personality, {0xffffffff}), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Answer(0, SYS_personality, {0}), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Answer(0, SYS_personality, {0x0040000}), kDenied);  // ADDR_NO_RANDOMIZE
}

// The binary tree and what is put in front of it against a plain reading of the profile.
TEST(DefaultProfileTest, EveryNumberOfEachArchitectureIsAnsweredAsTheProfileSays) {
  const spec::Seccomp profile = DefaultProfile(Bit(CAP_SYS_CHROOT));
  const auto program = Compile(profile);
  ASSERT_TRUE(program.ok()) << program.status();
  std::set<std::string> allowed;
  std::set<std::string> conditional;
  for (const spec::SeccompRule& rule : profile.syscalls) {
    auto& names = rule.args.empty() && rule.action == "SCMP_ACT_ALLOW" ? allowed : conditional;
    names.insert(rule.names.begin(), rule.names.end());
  }
  int compared = 0;
#if defined(__x86_64__)
  const std::vector<uint32_t> architectures = {SCMP_ARCH_X86_64, SCMP_ARCH_X86};
#else
  const std::vector<uint32_t> architectures = {seccomp_arch_native()};
#endif
  for (const uint32_t architecture : architectures) {
    for (int number = 0; number < 449; ++number) {
      char* resolved = seccomp_syscall_resolve_num_arch(architecture, number);
      const std::string name = resolved == nullptr ? "" : resolved;
      free(resolved);
      if (conditional.count(name) != 0) continue;
      EXPECT_EQ(Evaluate(program->bpf, architecture, static_cast<uint32_t>(number)),
                allowed.count(name) != 0 ? SECCOMP_RET_ALLOW : kDenied)
          << name << " " << number << " of architecture " << architecture;
      ++compared;
    }
  }
  EXPECT_GT(compared, 400);
}

TEST(DefaultProfileTest, CallsOfTheFutureDoNotExist) {
  EXPECT_EQ(Answer(0, 900), SECCOMP_RET_ERRNO | ENOSYS);
}

TEST(DefaultProfileTest, AShellRunsUnderIt) {
  const auto program = Compile(DefaultProfile(0));
  ASSERT_TRUE(program.ok()) << program.status();
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    std::string code = program->bpf;
    sock_fprog filter{static_cast<unsigned short>(code.size() / sizeof(sock_filter)),
                      reinterpret_cast<sock_filter*>(code.data())};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) != 0) _exit(250);
    execl("/bin/sh", "sh", "-c",
          "test \"$(ls / | sort | head -1)\" && ! unshare -m true 2>/dev/null && exit 7", nullptr);
    _exit(251);
  }
  int status = 0;
  ASSERT_EQ(waitpid(pid, &status, 0), pid);
  EXPECT_EQ(WEXITSTATUS(status), 7) << status;
}

}  // namespace
}  // namespace davit::runtime::seccomp
