#ifndef DAVIT_RUNTIME_SECCOMP_NEWER_SYSCALLS_H_
#define DAVIT_RUNTIME_SECCOMP_NEWER_SYSCALLS_H_

#include <seccomp.h>

#include <cstdint>

namespace davit::runtime::seccomp {

// System calls that libseccomp 2.5.4 does not know by name. From 424 on (Linux 5.1) a new system
// call has the same number on every architecture that HasCommonNumbers tells.
struct NewerSyscall {
  const char* name;
  uint32_t number;
};

inline constexpr NewerSyscall kNewerSyscalls[] = {
    {"set_mempolicy_home_node", 450},
    {"cachestat", 451},
    {"fchmodat2", 452},
    {"map_shadow_stack", 453},
    {"futex_wake", 454},
    {"futex_wait", 455},
    {"futex_requeue", 456},
    {"statmount", 457},
    {"listmount", 458},
    {"lsm_get_self_attr", 459},
    {"lsm_set_self_attr", 460},
    {"lsm_list_modules", 461},
    {"mseal", 462},
    {"setxattrat", 463},
    {"getxattrat", 464},
    {"listxattrat", 465},
    {"removexattrat", 466},
    {"open_tree_attr", 467},
};

// False for the MIPS family, whose numbers start at a base of their own, and for x32, whose numbers
// carry a bit.
constexpr bool HasCommonNumbers(uint32_t architecture) {
  switch (architecture) {
    case SCMP_ARCH_X86:
    case SCMP_ARCH_X86_64:
    case SCMP_ARCH_ARM:
    case SCMP_ARCH_AARCH64:
    case SCMP_ARCH_PPC:
    case SCMP_ARCH_PPC64:
    case SCMP_ARCH_PPC64LE:
    case SCMP_ARCH_S390:
    case SCMP_ARCH_S390X:
    case SCMP_ARCH_RISCV64:
      return true;
    default:
      return false;
  }
}

}  // namespace davit::runtime::seccomp

#endif  // DAVIT_RUNTIME_SECCOMP_NEWER_SYSCALLS_H_
