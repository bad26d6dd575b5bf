#include "runtime/sys/clone_vm.h"

#include <sys/syscall.h>

namespace davit::sys {

#if defined(__x86_64__)
// The child needs a stack of its own and code that touches nothing of the parent's frame.
DAVIT_NO_SANITIZE long CloneVm(clone_args* arguments, int (*function)(void*), void* argument) {
  long result;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %[argument], %%rdi\n\t"
      "call *%[function]\n\t"
      "mov %%eax, %%edi\n\t"
      "mov $60, %%eax\n\t"
      "syscall\n\t"
      "1:\n\t"
      : "=a"(result)
      : "0"(static_cast<long>(SYS_clone3)), "D"(arguments),
        "S"(sizeof *arguments), [function] "r"(function), [argument] "r"(argument)
      : "rcx", "r11", "memory");
  return result;
}
#else
#error "CloneVm is written for x86_64; add this architecture's clone3 call"
#endif

}  // namespace davit::sys
