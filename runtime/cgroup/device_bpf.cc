#include "runtime/cgroup/device_bpf.h"

#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "runtime/cgroup/device_rules.h"
#include "runtime/sys/errno.h"

namespace davit::runtime::cgroup {
namespace {

constexpr size_t kMaxInstructions = 4096;
constexpr size_t kVerifierLog = 64 * 1024;
constexpr uint32_t kMaxPrograms = 64;  // the kernel's own limit for one group

// Registers of the program. The context is struct bpf_cgroup_dev_ctx.
constexpr uint8_t kResult = BPF_REG_0;
constexpr uint8_t kContext = BPF_REG_1;
constexpr uint8_t kType = BPF_REG_2;
constexpr uint8_t kAccess = BPF_REG_3;
constexpr uint8_t kMajor = BPF_REG_4;
constexpr uint8_t kMinor = BPF_REG_5;

long Bpf(int command, bpf_attr* attributes) {
  return syscall(SYS_bpf, command, attributes, sizeof *attributes);
}

// Jumps of a rule lead to the rule after it, whose place is known when the rule is complete.
class Assembler {
 public:
  void Load(uint8_t to, int16_t offset) {
    Emit({BPF_LDX | BPF_MEM | BPF_W, to, kContext, offset, 0});
  }
  void Move(uint8_t to, uint8_t from) { Emit({BPF_ALU | BPF_MOV | BPF_X, to, from, 0, 0}); }
  void And(uint8_t reg, uint32_t mask) {
    Emit({BPF_ALU | BPF_AND | BPF_K, reg, 0, 0, static_cast<int32_t>(mask)});
  }
  void ShiftRight(uint8_t reg, int32_t bits) { Emit({BPF_ALU | BPF_RSH | BPF_K, reg, 0, 0, bits}); }
  // 32-bit comparisons: a 64-bit one would extend the sign of device numbers above 2^31.
  void NextRuleUnless(uint8_t reg, uint32_t value) { Jump(BPF_JNE, reg, value); }
  void NextRuleIf(uint8_t reg, uint32_t value) { Jump(BPF_JEQ, reg, value); }
  void Return(bool allow) {
    Emit({BPF_ALU64 | BPF_MOV | BPF_K, kResult, 0, 0, allow ? 1 : 0});
    Emit({BPF_JMP | BPF_EXIT, 0, 0, 0, 0});
  }
  void EndRule() {
    for (const size_t jump : jumps_) {
      instructions_[jump].off = static_cast<int16_t>(instructions_.size() - jump - 1);
    }
    jumps_.clear();
  }

  size_t size() const { return instructions_.size(); }
  std::string Bytes() const {
    return std::string(reinterpret_cast<const char*>(instructions_.data()),
                       instructions_.size() * sizeof(bpf_insn));
  }

 private:
  void Emit(bpf_insn instruction) { instructions_.push_back(instruction); }
  void Jump(int condition, uint8_t reg, uint32_t value) {
    jumps_.push_back(instructions_.size());
    Emit({static_cast<uint8_t>(BPF_JMP32 | condition | BPF_K), reg, 0, 0,
          static_cast<int32_t>(value)});
  }

  std::vector<bpf_insn> instructions_;
  std::vector<size_t> jumps_;
};

// Rules are visited from the last to the first. kAccess holds the kinds of access that no rule has
// decided on yet: a denial of one of them denies the whole, an allowance takes its own out.
void EmitRule(const DeviceRule& rule, Assembler& program) {
  program.NextRuleUnless(kType, rule.type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR);
  if (rule.major >= 0) program.NextRuleUnless(kMajor, static_cast<uint32_t>(rule.major));
  if (rule.minor >= 0) program.NextRuleUnless(kMinor, static_cast<uint32_t>(rule.minor));
  if (rule.allow) {
    program.And(kAccess, kDeviceAll & ~rule.access);
    program.NextRuleUnless(kAccess, 0);
  } else {
    program.Move(kResult, kAccess);
    program.And(kResult, rule.access);
    program.NextRuleIf(kResult, 0);
  }
  program.Return(rule.allow);
  program.EndRule();
}

// True if nothing is denied: an allowance of everything, and no denial after it.
bool AllowsEverything(const std::vector<DeviceRule>& rules) {
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule) {
    if (!rule->allow) return false;
    if (rule->type == 'a') return true;
  }
  return rules.empty();
}

absl::StatusOr<sys::UniqueFd> ProgramById(uint32_t id) {
  bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_id = id;
  sys::UniqueFd fd(static_cast<int>(Bpf(BPF_PROG_GET_FD_BY_ID, &attributes)));
  if (!fd.ok()) return sys::ErrnoStatus(errno, absl::StrCat("open device program ", id));
  return fd;
}

absl::Status Attach(int group, int program, int replaced) {
  bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.target_fd = static_cast<uint32_t>(group);
  attributes.attach_bpf_fd = static_cast<uint32_t>(program);
  attributes.attach_type = BPF_CGROUP_DEVICE;
  attributes.attach_flags = BPF_F_ALLOW_MULTI;
  if (replaced >= 0) {
    attributes.attach_flags |= BPF_F_REPLACE;
    attributes.replace_bpf_fd = static_cast<uint32_t>(replaced);
  }
  if (Bpf(BPF_PROG_ATTACH, &attributes) != 0) {
    return sys::ErrnoStatus(errno, "attach a device program to a cgroup");
  }
  return absl::OkStatus();
}

absl::Status Detach(int group, int program) {
  bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.target_fd = static_cast<uint32_t>(group);
  attributes.attach_bpf_fd = static_cast<uint32_t>(program);
  attributes.attach_type = BPF_CGROUP_DEVICE;
  if (Bpf(BPF_PROG_DETACH, &attributes) != 0) {
    return sys::ErrnoStatus(errno, "detach a device program from a cgroup");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> CompileDeviceProgram(const std::vector<spec::DeviceCgroupRule>& rules) {
  DAVIT_ASSIGN_OR_RETURN(const std::vector<DeviceRule> normal, NormalizeDeviceRules(rules));
  if (AllowsEverything(normal)) return std::string();
  Assembler program;
  program.Load(kType, offsetof(bpf_cgroup_dev_ctx, access_type));
  program.Move(kAccess, kType);
  program.And(kType, 0xffff);
  program.ShiftRight(kAccess, 16);
  program.Load(kMajor, offsetof(bpf_cgroup_dev_ctx, major));
  program.Load(kMinor, offsetof(bpf_cgroup_dev_ctx, minor));
  bool otherwise = false;
  for (auto rule = normal.rbegin(); rule != normal.rend(); ++rule) {
    if (rule->type == 'a') {
      // Decides all that is left; the verifier refuses code that nothing leads to.
      otherwise = rule->allow;
      break;
    }
    EmitRule(*rule, program);
  }
  program.Return(otherwise);
  if (program.size() > kMaxInstructions) {
    return absl::ResourceExhaustedError(
        absl::StrCat("compile ", rules.size(), " device rules: too many for one program"));
  }
  return program.Bytes();
}

absl::StatusOr<sys::UniqueFd> LoadDeviceProgram(const std::string& program) {
  bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uint64_t>(program.data());
  attributes.insn_cnt = static_cast<uint32_t>(program.size() / sizeof(bpf_insn));
  attributes.license = reinterpret_cast<uint64_t>("Apache-2.0");
  memcpy(attributes.prog_name, "davit_devices", sizeof "davit_devices");
  sys::UniqueFd fd(static_cast<int>(Bpf(BPF_PROG_LOAD, &attributes)));
  if (fd.ok()) return fd;
  const int error = errno;
  // Once more for the verifier's words, which cost too much to be asked for each time.
  std::string log(kVerifierLog, '\0');
  attributes.log_buf = reinterpret_cast<uint64_t>(log.data());
  attributes.log_size = static_cast<uint32_t>(log.size());
  attributes.log_level = 1;
  fd.reset(static_cast<int>(Bpf(BPF_PROG_LOAD, &attributes)));
  if (fd.ok()) return fd;
  log.resize(strnlen(log.data(), log.size()));
  return sys::ErrnoStatus(error,
                          absl::StrCat("load a device program", log.empty() ? "" : ": ", log));
}

absl::Status AttachDeviceProgram(int group, int program) { return Attach(group, program, -1); }

absl::Status ReplaceDeviceProgram(int group, int program) {
  DAVIT_ASSIGN_OR_RETURN(const std::vector<uint32_t> ids, ListDevicePrograms(group));
  std::vector<sys::UniqueFd> old;
  for (const uint32_t id : ids) {
    DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd fd, ProgramById(id));
    old.push_back(std::move(fd));
  }
  if (program >= 0 && old.size() == 1) return Attach(group, program, old.front().get());
  // With more than one the new program joins them first: for a moment all must allow, which is
  // stricter than either state and never laxer.
  if (program >= 0) DAVIT_RETURN_IF_ERROR(Attach(group, program, -1));
  for (const sys::UniqueFd& fd : old) DAVIT_RETURN_IF_ERROR(Detach(group, fd.get()));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> ListDevicePrograms(int group) {
  std::vector<uint32_t> ids(kMaxPrograms);
  bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.query.target_fd = static_cast<uint32_t>(group);
  attributes.query.attach_type = BPF_CGROUP_DEVICE;
  attributes.query.prog_ids = reinterpret_cast<uint64_t>(ids.data());
  attributes.query.prog_cnt = kMaxPrograms;
  if (Bpf(BPF_PROG_QUERY, &attributes) != 0) {
    return sys::ErrnoStatus(errno, "list the device programs of a cgroup");
  }
  ids.resize(attributes.query.prog_cnt);
  return ids;
}

}  // namespace davit::runtime::cgroup
