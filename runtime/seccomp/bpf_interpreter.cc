#include "runtime/seccomp/bpf_interpreter.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

#include <cstring>

namespace davit::runtime::seccomp {
namespace {

constexpr uint32_t kBroken = 0xdeadbeef;

bool Compare(uint16_t code, uint32_t a, uint32_t k) {
  switch (BPF_OP(code)) {
    case BPF_JEQ:
      return a == k;
    case BPF_JGT:
      return a > k;
    case BPF_JGE:
      return a >= k;
    default:
      return (a & k) != 0;  // BPF_JSET
  }
}

uint32_t Alu(uint16_t code, uint32_t a, uint32_t k) {
  switch (BPF_OP(code)) {
    case BPF_AND:
      return a & k;
    case BPF_OR:
      return a | k;
    case BPF_XOR:
      return a ^ k;
    default:
      return kBroken;
  }
}

}  // namespace

uint32_t Evaluate(const std::string& program, uint32_t architecture, uint32_t number,
                  std::vector<uint64_t> arguments) {
  seccomp_data data{};
  data.nr = static_cast<int>(number);
  data.arch = architecture;
  for (size_t i = 0; i < arguments.size(); ++i) data.args[i] = arguments[i];
  std::vector<sock_filter> code(program.size() / sizeof(sock_filter));
  memcpy(code.data(), program.data(), code.size() * sizeof(sock_filter));
  uint32_t a = 0;
  uint32_t memory[BPF_MEMWORDS] = {};
  for (size_t pc = 0; pc < code.size(); ++pc) {
    const sock_filter& instruction = code[pc];
    switch (BPF_CLASS(instruction.code)) {
      case BPF_LD:
        if (BPF_MODE(instruction.code) == BPF_ABS) {
          if (instruction.k + 4 > sizeof data) return kBroken;
          memcpy(&a, reinterpret_cast<const char*>(&data) + instruction.k, 4);
        } else if (BPF_MODE(instruction.code) == BPF_MEM) {
          a = memory[instruction.k % BPF_MEMWORDS];
        } else {
          a = instruction.k;
        }
        break;
      case BPF_ST:
        memory[instruction.k % BPF_MEMWORDS] = a;
        break;
      case BPF_ALU:
        a = Alu(instruction.code, a, instruction.k);
        break;
      case BPF_JMP:
        if (BPF_OP(instruction.code) == BPF_JA) {
          pc += instruction.k;
        } else {
          pc += Compare(instruction.code, a, instruction.k) ? instruction.jt : instruction.jf;
        }
        break;
      case BPF_RET:
        return instruction.k;
      default:
        return kBroken;
    }
  }
  return kBroken;
}

}  // namespace davit::runtime::seccomp
