#ifndef DAVIT_RUNTIME_SECCOMP_BPF_INTERPRETER_H_
#define DAVIT_RUNTIME_SECCOMP_BPF_INTERPRETER_H_

#include <cstdint>
#include <string>
#include <vector>

namespace davit::runtime::seccomp {

// What a seccomp program (struct sock_filter bytes) returns for one system call, as the kernel
// would compute it. For tests: every number of every architecture can be asked about without making
// the call. 0xdeadbeef for a program that the kernel would refuse.
uint32_t Evaluate(const std::string& program, uint32_t architecture, uint32_t number,
                  std::vector<uint64_t> arguments = {});

}  // namespace davit::runtime::seccomp

#endif  // DAVIT_RUNTIME_SECCOMP_BPF_INTERPRETER_H_
