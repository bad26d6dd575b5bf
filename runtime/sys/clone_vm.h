#ifndef DAVIT_RUNTIME_SYS_CLONE_VM_H_
#define DAVIT_RUNTIME_SYS_CLONE_VM_H_

#include <linux/sched.h>

// For functions that run in a child which shares our memory. A sanitizer's bookkeeping is the
// parent's too while memory is shared: such code is kept out of it, calls nothing but raw system
// calls, and reads nothing but plain arrays.
#define DAVIT_NO_SANITIZE __attribute__((no_sanitize("thread", "address", "undefined"), noinline))

namespace davit::sys {

// Starts a child that shares our memory (CLONE_VM) and runs `function` on the stack that
// `arguments` name; it ends with what the function returns. Returns the child's pid, or -errno (man
// 2 clone). Signals must be blocked around the call: handlers would run on shared memory. Not
// glibc's clone(): that takes no CLONE_INTO_CGROUP, and ThreadSanitizer, which takes each clone for
// a fork, undoes its own preparations in parent and child, so twice in the shared memory, and sees
// no synchronisation of the calling thread any more.
long CloneVm(clone_args* arguments, int (*function)(void*), void* argument);

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_CLONE_VM_H_
