#include "runtime/seccomp/compile.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/seccomp/newer_syscalls.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"

// Flags that are newer than some kernel headers.
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

namespace davit::runtime::seccomp {
namespace {

constexpr size_t kMaxProgram = BPF_MAXINSNS * sizeof(sock_filter);
constexpr uint32_t kX32Bit = 0x40000000;

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("seccomp profile: ", what));
}

struct Name {
  absl::string_view name;
  uint32_t value;
};

constexpr Name kActions[] = {
    {"SCMP_ACT_KILL", SCMP_ACT_KILL_THREAD},
    {"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD},
    {"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS},
    {"SCMP_ACT_TRAP", SCMP_ACT_TRAP},
    {"SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(0)},
    {"SCMP_ACT_TRACE", SCMP_ACT_TRACE(0)},
    {"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW},
    {"SCMP_ACT_LOG", SCMP_ACT_LOG},
    {"SCMP_ACT_NOTIFY", SCMP_ACT_NOTIFY},
};

constexpr Name kOperators[] = {
    {"SCMP_CMP_NE", SCMP_CMP_NE},
    {"SCMP_CMP_LT", SCMP_CMP_LT},
    {"SCMP_CMP_LE", SCMP_CMP_LE},
    {"SCMP_CMP_EQ", SCMP_CMP_EQ},
    {"SCMP_CMP_GE", SCMP_CMP_GE},
    {"SCMP_CMP_GT", SCMP_CMP_GT},
    {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
};

constexpr Name kArchitectures[] = {
    {"SCMP_ARCH_X86", SCMP_ARCH_X86},
    {"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},
    {"SCMP_ARCH_X32", SCMP_ARCH_X32},
    {"SCMP_ARCH_ARM", SCMP_ARCH_ARM},
    {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64},
    {"SCMP_ARCH_MIPS", SCMP_ARCH_MIPS},
    {"SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64},
    {"SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32},
    {"SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL},
    {"SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64},
    {"SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32},
    {"SCMP_ARCH_PPC", SCMP_ARCH_PPC},
    {"SCMP_ARCH_PPC64", SCMP_ARCH_PPC64},
    {"SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE},
    {"SCMP_ARCH_S390", SCMP_ARCH_S390},
    {"SCMP_ARCH_S390X", SCMP_ARCH_S390X},
    {"SCMP_ARCH_PARISC", SCMP_ARCH_PARISC},
    {"SCMP_ARCH_PARISC64", SCMP_ARCH_PARISC64},
    {"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64},
};

constexpr Name kFlags[] = {
    {"SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC},
    {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
    {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
    {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV},
};

template <size_t N>
absl::StatusOr<uint32_t> Lookup(const Name (&table)[N], const std::string& name,
                                absl::string_view what) {
  for (const Name& entry : table) {
    if (entry.name == name) return entry.value;
  }
  return Invalid(absl::StrCat("unknown ", what, " \"", name, "\""));
}

absl::StatusOr<uint32_t> ParseAction(const std::string& name, std::optional<uint32_t> errno_ret) {
  DAVIT_ASSIGN_OR_RETURN(const uint32_t action, Lookup(kActions, name, "action"));
  const bool takes_errno = action == SCMP_ACT_ERRNO(0) || action == SCMP_ACT_TRACE(0);
  if (!takes_errno) {
    if (errno_ret.has_value()) return Invalid(absl::StrCat("errnoRet with action ", name));
    return action;
  }
  const uint32_t value = errno_ret.value_or(EPERM);
  // The kernel keeps 16 bits and treats more than MAX_ERRNO as that.
  if (action == SCMP_ACT_ERRNO(0) ? value > 4095 : value > 0xffff) {
    return Invalid(absl::StrCat("errnoRet ", value));
  }
  return action | value;
}

bool IsErrno(uint32_t action) { return (action & 0xffff0000U) == SCMP_ACT_ERRNO(0); }

struct ReleaseFilter {
  void operator()(void* filter) const { seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, ReleaseFilter>;

absl::Status FilterError(int result, absl::string_view what) {
  return sys::ErrnoStatus(-result, absl::StrCat("seccomp profile: ", what));
}

struct ParsedRule {
  const spec::SeccompRule* rule;
  uint32_t action;
  // One libseccomp rule each. A rule names an argument at most once; a profile that names one twice
  // means "either", as everyone who reads profiles takes it.
  std::vector<std::vector<scmp_arg_cmp>> alternatives;
};

absl::StatusOr<ParsedRule> ParseRule(const spec::SeccompRule& rule) {
  ParsedRule parsed{&rule, 0, {}};
  DAVIT_ASSIGN_OR_RETURN(parsed.action, ParseAction(rule.action, rule.errno_ret));
  if (rule.names.empty()) return Invalid("a rule without system call names");
  std::vector<scmp_arg_cmp> comparisons;
  std::set<uint32_t> indexes;
  for (const spec::SeccompArg& arg : rule.args) {
    if (arg.index > 5) return Invalid(absl::StrCat("argument index ", arg.index));
    DAVIT_ASSIGN_OR_RETURN(const uint32_t op, Lookup(kOperators, arg.op, "operator"));
    comparisons.push_back({arg.index, static_cast<scmp_compare>(op), arg.value, arg.value_two});
    indexes.insert(arg.index);
  }
  if (indexes.size() == comparisons.size()) {
    parsed.alternatives.push_back(std::move(comparisons));
  } else {
    for (const scmp_arg_cmp& comparison : comparisons) {
      parsed.alternatives.push_back({comparison});
    }
  }
  return parsed;
}

absl::Status AddRule(scmp_filter_ctx filter, const ParsedRule& rule) {
  for (const std::string& name : rule.rule->names) {
    const int number = seccomp_syscall_resolve_name(name.c_str());
    if (number == __NR_SCMP_ERROR) continue;  // unknown: ignored, or NewerRules knows it
    for (const auto& comparisons : rule.alternatives) {
      const int result =
          seccomp_rule_add_array(filter, rule.action, number,
                                 static_cast<unsigned>(comparisons.size()), comparisons.data());
      // A rule that says what an earlier one says.
      if (result == -EEXIST) continue;
      if (result != 0) return FilterError(result, absl::StrCat("rule for ", name));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Export(scmp_filter_ctx filter) {
  sys::UniqueFd file(memfd_create("seccomp", MFD_CLOEXEC));
  if (!file.ok()) return sys::ErrnoStatus(errno, "memfd_create seccomp");
  if (const int result = seccomp_export_bpf(filter, file.get()); result != 0) {
    return FilterError(result, "generate the program");
  }
  if (lseek(file.get(), 0, SEEK_SET) != 0) return sys::ErrnoStatus(errno, "seek in a memfd");
  return sys::ReadFd(file.get(), kMaxProgram * 16, "the generated program");
}

// What a program needs in front of what libseccomp makes: rules for system calls newer than
// libseccomp, and ENOSYS for those newer than the profile.
class Prologue {
 public:
  Prologue(const std::vector<ParsedRule>& rules, uint32_t default_action)
      : rules_(rules), default_action_(default_action) {}

  std::string Make(const std::vector<uint32_t>& architectures) {
    for (const uint32_t architecture : architectures) {
      // x32 shares its audit number with x86_64, which has excluded its numbers.
      if (architecture != SCMP_ARCH_X32) AddArchitecture(architecture);
    }
    if (code_.empty()) return "";
    code_.insert(code_.begin(), BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    // The main program loads what it needs itself.
    return std::string(reinterpret_cast<const char*>(code_.data()),
                       code_.size() * sizeof(sock_filter));
  }

 private:
  struct Decision {
    uint32_t number;
    uint32_t action;
  };

  // Numbers with a verdict of their own, from rules without arguments.
  std::vector<Decision> NewerRules(uint32_t architecture, uint32_t& highest) const {
    std::vector<Decision> decisions;
    for (const NewerSyscall& syscall : kNewerSyscalls) {
      if (!HasCommonNumbers(architecture)) continue;
      if (seccomp_syscall_resolve_name_arch(architecture, syscall.name) != __NR_SCMP_ERROR) {
        continue;
      }
      const ParsedRule* found = nullptr;
      bool conditional = false;
      for (const ParsedRule& rule : rules_) {
        for (const std::string& name : rule.rule->names) {
          if (name != syscall.name) continue;
          if (found == nullptr) found = &rule;
          conditional = conditional || !rule.rule->args.empty();
        }
      }
      if (found == nullptr || conditional) continue;
      decisions.push_back({syscall.number, found->action});
      highest = std::max(highest, syscall.number);
    }
    return decisions;
  }

  uint32_t HighestNamed(uint32_t architecture) const {
    int highest = 0;
    for (const ParsedRule& rule : rules_) {
      for (const std::string& name : rule.rule->names) {
        const int number = seccomp_syscall_resolve_name_arch(architecture, name.c_str());
        highest = std::max(highest, number);
      }
    }
    return static_cast<uint32_t>(highest);
  }

  void AddArchitecture(uint32_t architecture) {
    uint32_t highest = HighestNamed(architecture);
    const std::vector<Decision> decisions = NewerRules(architecture, highest);
    const bool enosys = IsErrno(default_action_) && highest > 0 && HasCommonNumbers(architecture);
    if (decisions.empty() && !enosys) return;

    std::vector<sock_filter> block;
    block.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    if (architecture == SCMP_ARCH_X86_64) {
      // x32 numbers are left to the main program: jump over the rest of this block.
      const uint32_t rest = static_cast<uint32_t>(decisions.size() * 2 + (enosys ? 2 : 0));
      block.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 0, 1));
      block.push_back(BPF_STMT(BPF_JMP | BPF_JA, rest));
    }
    for (const Decision& decision : decisions) {
      block.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, decision.number, 0, 1));
      block.push_back(BPF_STMT(BPF_RET | BPF_K, decision.action));
    }
    if (enosys) {
      block.push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, highest, 0, 1));
      block.push_back(BPF_STMT(BPF_RET | BPF_K, SCMP_ACT_ERRNO(ENOSYS)));
    }
    // The next block compares the architecture again.
    block.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, architecture, 1, 0));
    code_.push_back(BPF_STMT(BPF_JMP | BPF_JA, static_cast<uint32_t>(block.size())));
    code_.insert(code_.end(), block.begin(), block.end());
  }

  const std::vector<ParsedRule>& rules_;
  const uint32_t default_action_;
  std::vector<sock_filter> code_;
};

absl::StatusOr<Filter> MakeFilter(uint32_t default_action,
                                  const std::vector<uint32_t>& architectures) {
  Filter filter(seccomp_init(default_action));
  if (filter == nullptr) return Invalid("libseccomp refuses the default action");
  for (const uint32_t architecture : architectures) {
    const int result = seccomp_arch_add(filter.get(), architecture);
    if (result != 0 && result != -EEXIST) return FilterError(result, "add an architecture");
  }
  // A program of an architecture that the profile does not name is none that it was written for.
  if (const int result =
          seccomp_attr_set(filter.get(), SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
      result != 0) {
    return FilterError(result, "set the action for other architectures");
  }
  // A binary tree: the kernel interprets a filter once for every system call number when it is
  // installed, and a list costs the square of its length.
  if (const int result = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2); result != 0) {
    return FilterError(result, "choose the binary tree");
  }
  return filter;
}

}  // namespace

absl::StatusOr<Program> Compile(const spec::Seccomp& profile) {
  Program program;
  DAVIT_ASSIGN_OR_RETURN(const uint32_t default_action,
                         ParseAction(profile.default_action, profile.default_errno_ret));
  if (default_action == SCMP_ACT_NOTIFY) return Invalid("SCMP_ACT_NOTIFY as the default action");
  for (const std::string& name : profile.flags) {
    DAVIT_ASSIGN_OR_RETURN(const uint32_t flag, Lookup(kFlags, name, "flag"));
    program.flags |= flag;
  }
  std::vector<uint32_t> architectures = {seccomp_arch_native()};
  for (const std::string& name : profile.architectures) {
    DAVIT_ASSIGN_OR_RETURN(const uint32_t architecture,
                           Lookup(kArchitectures, name, "architecture"));
    if (architecture != architectures.front()) architectures.push_back(architecture);
  }
  std::vector<ParsedRule> rules;
  for (const spec::SeccompRule& rule : profile.syscalls) {
    DAVIT_ASSIGN_OR_RETURN(ParsedRule parsed, ParseRule(rule));
    program.notifies = program.notifies || parsed.action == SCMP_ACT_NOTIFY;
    rules.push_back(std::move(parsed));
  }

  // libseccomp finds out what the kernel can do the first time that it is used, unguarded.
  static sys::Mutex* const first_use = new sys::Mutex;
  const sys::MutexLock lock(first_use);
  DAVIT_ASSIGN_OR_RETURN(const Filter filter, MakeFilter(default_action, architectures));
  for (const ParsedRule& rule : rules) {
    // A rule with the default action is an error to libseccomp.
    if (rule.action != default_action) DAVIT_RETURN_IF_ERROR(AddRule(filter.get(), rule));
  }
  DAVIT_ASSIGN_OR_RETURN(const std::string main, Export(filter.get()));
  program.bpf = Prologue(rules, default_action).Make(architectures) + main;
  if (program.bpf.size() > kMaxProgram) {
    return absl::ResourceExhaustedError(
        absl::StrCat("seccomp profile: its program has ", program.bpf.size() / sizeof(sock_filter),
                     " instructions, and the kernel takes ", BPF_MAXINSNS));
  }
  return program;
}

}  // namespace davit::runtime::seccomp
