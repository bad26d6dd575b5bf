#include "runtime/seccomp/compile.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/seccomp/bpf_interpreter.h"

namespace davit::runtime::seccomp {
namespace {

using testing::HasSubstr;

spec::SeccompRule Rule(std::vector<std::string> names, std::string action,
                       std::optional<uint32_t> errno_ret = std::nullopt,
                       std::vector<spec::SeccompArg> args = {}) {
  return {std::move(names), std::move(action), errno_ret, std::move(args)};
}

spec::Seccomp Profile(std::string default_action, std::vector<spec::SeccompRule> rules) {
  spec::Seccomp profile;
  profile.default_action = std::move(default_action);
  profile.syscalls = std::move(rules);
  return profile;
}

uint32_t Native() { return seccomp_arch_native(); }

// What the compiled profile answers to a native system call.
uint32_t Answer(const spec::Seccomp& profile, uint32_t number,
                std::vector<uint64_t> arguments = {}) {
  const auto program = Compile(profile);
  EXPECT_TRUE(program.ok()) << program.status();
  return program.ok() ? Evaluate(program->bpf, Native(), number, std::move(arguments)) : 0;
}

// Installs the program in a child, as the stage does, and returns what `body` exits with (or minus
// the signal that ended it).
int RunUnder(const Program& program, const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    std::string code = program.bpf;
    sock_fprog filter{static_cast<unsigned short>(code.size() / sizeof(sock_filter)),
                      reinterpret_cast<sock_filter*>(code.data())};
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, program.flags, &filter) != 0) _exit(250);
    syscall(SYS_exit_group, body());
  }
  int status = 0;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(CompileTest, TheKernelTakesTheProgramAndFollowsIt) {
  auto profile = Profile("SCMP_ACT_ALLOW", {Rule({"sethostname"}, "SCMP_ACT_ERRNO"),
                                            Rule({"getpgid"}, "SCMP_ACT_ERRNO", ENXIO),
                                            Rule({"uname"}, "SCMP_ACT_KILL_PROCESS")});
  profile.flags = {"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"};
  const auto program = Compile(profile);
  ASSERT_TRUE(program.ok()) << program.status();
  EXPECT_EQ(program->flags, SECCOMP_FILTER_FLAG_LOG | SECCOMP_FILTER_FLAG_SPEC_ALLOW);
  EXPECT_EQ(RunUnder(*program, [] { return sethostname("x", 1) == 0 ? 0 : errno; }), EPERM);
  EXPECT_EQ(RunUnder(*program, [] { return getpgid(0) >= 0 ? 0 : errno; }), ENXIO);
  EXPECT_EQ(RunUnder(*program, [] { return getppid() > 0 ? 0 : 1; }), 0);
  EXPECT_EQ(RunUnder(*program, [] { return static_cast<int>(syscall(SYS_uname, nullptr)); }),
            -SIGSYS);
}

TEST(CompileTest, EveryActionIsTranslated) {
  const struct {
    const char* name;
    uint32_t expected;
  } cases[] = {
      {"SCMP_ACT_KILL", SECCOMP_RET_KILL_THREAD},
      {"SCMP_ACT_KILL_THREAD", SECCOMP_RET_KILL_THREAD},
      {"SCMP_ACT_KILL_PROCESS", SECCOMP_RET_KILL_PROCESS},
      {"SCMP_ACT_TRAP", SECCOMP_RET_TRAP},
      {"SCMP_ACT_ERRNO", SECCOMP_RET_ERRNO | EPERM},
      {"SCMP_ACT_TRACE", SECCOMP_RET_TRACE | EPERM},
      {"SCMP_ACT_LOG", SECCOMP_RET_LOG},
      {"SCMP_ACT_NOTIFY", SECCOMP_RET_USER_NOTIF},
  };
  for (const auto& [name, expected] : cases) {
    EXPECT_EQ(Answer(Profile("SCMP_ACT_ALLOW", {Rule({"getpid"}, name)}), SYS_getpid), expected)
        << name;
  }
  EXPECT_TRUE(Compile(Profile("SCMP_ACT_ALLOW", {Rule({"getpid"}, "SCMP_ACT_NOTIFY")}))->notifies);
  EXPECT_EQ(
      Answer(Profile("SCMP_ACT_KILL_PROCESS", {Rule({"getpid"}, "SCMP_ACT_ALLOW")}), SYS_getpid),
      SECCOMP_RET_ALLOW);
}

TEST(CompileTest, EveryOperatorCompares) {
  const struct {
    const char* op;
    uint64_t value;
    uint64_t value_two;
    uint64_t matching;
    uint64_t other;
  } cases[] = {
      {"SCMP_CMP_NE", 5, 0, 6, 5},
      {"SCMP_CMP_LT", 5, 0, 4, 5},
      {"SCMP_CMP_LE", 5, 0, 5, 6},
      {"SCMP_CMP_EQ", 0x500000005, 0, 0x500000005, 5},
      {"SCMP_CMP_GE", 5, 0, 5, 4},
      {"SCMP_CMP_GT", 5, 0, 0x100000000, 5},
      {"SCMP_CMP_MASKED_EQ", 0xf0, 0x20, 0x12f, 0x13f},
  };
  for (const auto& test : cases) {
    const auto profile = Profile(
        "SCMP_ACT_ALLOW",
        {Rule({"personality"}, "SCMP_ACT_ERRNO", 7, {{0, test.value, test.value_two, test.op}})});
    EXPECT_EQ(Answer(profile, SYS_personality, {test.matching}), SECCOMP_RET_ERRNO | 7) << test.op;
    EXPECT_EQ(Answer(profile, SYS_personality, {test.other}), SECCOMP_RET_ALLOW) << test.op;
  }
}

TEST(CompileTest, SeveralArgumentsMustAllMatchAndOneNamedTwiceMatchesEither) {
  const auto both =
      Profile("SCMP_ACT_ALLOW", {Rule({"socket"}, "SCMP_ACT_ERRNO", 7,
                                      {{0, 1, 0, "SCMP_CMP_EQ"}, {1, 2, 0, "SCMP_CMP_EQ"}})});
  EXPECT_EQ(Answer(both, SYS_socket, {1, 2}), SECCOMP_RET_ERRNO | 7);
  EXPECT_EQ(Answer(both, SYS_socket, {1, 3}), SECCOMP_RET_ALLOW);
  const auto either =
      Profile("SCMP_ACT_ALLOW", {Rule({"socket"}, "SCMP_ACT_ERRNO", 7,
                                      {{0, 1, 0, "SCMP_CMP_EQ"}, {0, 2, 0, "SCMP_CMP_EQ"}})});
  EXPECT_EQ(Answer(either, SYS_socket, {1}), SECCOMP_RET_ERRNO | 7);
  EXPECT_EQ(Answer(either, SYS_socket, {2}), SECCOMP_RET_ERRNO | 7);
  EXPECT_EQ(Answer(either, SYS_socket, {3}), SECCOMP_RET_ALLOW);
}

TEST(CompileTest, UnknownNamesAndRulesThatChangeNothingAreLeftOut) {
  const auto profile = Profile(
      "SCMP_ACT_ERRNO",
      {Rule({"no_such_call", "getpid"}, "SCMP_ACT_ALLOW"), Rule({"getppid"}, "SCMP_ACT_ERRNO")});
  EXPECT_EQ(Answer(profile, SYS_getpid), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Answer(profile, SYS_getppid), SECCOMP_RET_ERRNO | EPERM);
}

TEST(CompileTest, SystemCallsNewerThanTheProfileDoNotExist) {
  const auto profile = Profile("SCMP_ACT_ERRNO", {Rule({"getpid", "openat2"}, "SCMP_ACT_ALLOW")});
  EXPECT_EQ(Answer(profile, SYS_openat2), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Answer(profile, SYS_openat2 + 1), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(Answer(profile, 5000), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(Answer(profile, SYS_clone3), SECCOMP_RET_ERRNO | EPERM);  // older: refused on purpose
  const auto killing = Profile("SCMP_ACT_KILL_PROCESS", {Rule({"getpid"}, "SCMP_ACT_ALLOW")});
  EXPECT_EQ(Answer(killing, 5000), SECCOMP_RET_KILL_PROCESS);
  const auto allowing = Profile("SCMP_ACT_ALLOW", {Rule({"getpid"}, "SCMP_ACT_ERRNO")});
  EXPECT_EQ(Answer(allowing, 5000), SECCOMP_RET_ALLOW);
}

TEST(CompileTest, NamesThatLibseccompDoesNotKnowAreHonoured) {
  const auto profile = Profile("SCMP_ACT_ERRNO", {Rule({"getpid", "mseal"}, "SCMP_ACT_ALLOW"),
                                                  Rule({"cachestat"}, "SCMP_ACT_ERRNO", ENXIO)});
  EXPECT_EQ(Answer(profile, 462), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Answer(profile, 451), SECCOMP_RET_ERRNO | ENXIO);
  EXPECT_EQ(Answer(profile, 452), SECCOMP_RET_ERRNO | EPERM);  // older than mseal
  EXPECT_EQ(Answer(profile, 463), SECCOMP_RET_ERRNO | ENOSYS);
  const auto denying = Profile("SCMP_ACT_ALLOW", {Rule({"mseal"}, "SCMP_ACT_ERRNO")});
  EXPECT_EQ(Answer(denying, 462), SECCOMP_RET_ERRNO | EPERM);
  EXPECT_EQ(Answer(denying, 463), SECCOMP_RET_ALLOW);
}

#if defined(__x86_64__)
TEST(CompileTest, OtherArchitecturesFollowTheProfileOnlyIfItNamesThem) {
  auto profile = Profile("SCMP_ACT_ERRNO", {Rule({"getpid", "openat2"}, "SCMP_ACT_ALLOW")});
  constexpr uint32_t kGetpid32 = 20;
  const auto native = Compile(profile);
  EXPECT_EQ(Evaluate(native->bpf, SCMP_ARCH_X86, kGetpid32), SECCOMP_RET_KILL_PROCESS);
  EXPECT_EQ(Evaluate(native->bpf, SCMP_ARCH_X86_64, 0x40000000 | SYS_getpid),
            SECCOMP_RET_KILL_PROCESS);
  profile.architectures = {"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"};
  const auto all = Compile(profile);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(Evaluate(all->bpf, SCMP_ARCH_X86, kGetpid32), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Evaluate(all->bpf, SCMP_ARCH_X86, kGetpid32 + 1), SECCOMP_RET_ERRNO | EPERM);
  EXPECT_EQ(Evaluate(all->bpf, SCMP_ARCH_X86, 5000), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(Evaluate(all->bpf, SCMP_ARCH_X86_64, SYS_getpid), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Evaluate(all->bpf, SCMP_ARCH_X86_64, 5000), SECCOMP_RET_ERRNO | ENOSYS);
  EXPECT_EQ(Evaluate(all->bpf, SCMP_ARCH_X86_64, 0x40000000 | SYS_getpid), SECCOMP_RET_ALLOW);
  EXPECT_EQ(Evaluate(all->bpf, SCMP_ARCH_AARCH64, 172), SECCOMP_RET_KILL_PROCESS);
}
#endif

TEST(CompileTest, MistakesAreToldWithTheWordThatIsWrong) {
  const struct {
    spec::Seccomp profile;
    const char* message;
  } cases[] = {
      {Profile("SCMP_ACT_MAYBE", {}), "SCMP_ACT_MAYBE"},
      {Profile("", {}), "action"},
      {Profile("SCMP_ACT_NOTIFY", {}), "SCMP_ACT_NOTIFY"},
      {Profile("SCMP_ACT_ALLOW", {Rule({}, "SCMP_ACT_ERRNO")}), "names"},
      {Profile("SCMP_ACT_ALLOW", {Rule({"getpid"}, "deny")}), "deny"},
      {Profile("SCMP_ACT_ERRNO", {Rule({"getpid"}, "SCMP_ACT_ALLOW", 1)}), "errnoRet"},
      {Profile("SCMP_ACT_ALLOW", {Rule({"getpid"}, "SCMP_ACT_ERRNO", 70000)}), "70000"},
      {Profile("SCMP_ACT_ALLOW",
               {Rule({"getpid"}, "SCMP_ACT_ERRNO", 1, {{6, 0, 0, "SCMP_CMP_EQ"}})}),
       "6"},
      {Profile("SCMP_ACT_ALLOW", {Rule({"getpid"}, "SCMP_ACT_ERRNO", 1, {{0, 0, 0, "=="}})}), "=="},
  };
  for (const auto& [profile, message] : cases) {
    const auto program = Compile(profile);
    EXPECT_EQ(program.status().code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(program.status().message()), HasSubstr(message));
  }
  auto profile = Profile("SCMP_ACT_ALLOW", {});
  profile.flags = {"SECCOMP_FILTER_FLAG_NEW"};
  EXPECT_EQ(Compile(profile).status().code(), absl::StatusCode::kInvalidArgument);
  profile.flags = {};
  profile.architectures = {"SCMP_ARCH_Z80"};
  EXPECT_EQ(Compile(profile).status().code(), absl::StatusCode::kInvalidArgument);
  profile.architectures = {};
  profile.default_errno_ret = 3;
  EXPECT_EQ(Compile(profile).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(CompileTest, ARepeatedRuleIsNoError) {
  const auto profile = Profile("SCMP_ACT_ERRNO", {Rule({"getpid", "getpid"}, "SCMP_ACT_ALLOW"),
                                                  Rule({"getpid"}, "SCMP_ACT_ALLOW")});
  EXPECT_EQ(Answer(profile, SYS_getpid), SECCOMP_RET_ALLOW);
}

}  // namespace
}  // namespace davit::runtime::seccomp
