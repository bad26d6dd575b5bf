#ifndef DAVIT_RUNTIME_SYS_THREAD_H_
#define DAVIT_RUNTIME_SYS_THREAD_H_

#include <functional>
#include <thread>

#include "absl/status/statusor.h"

namespace davit::sys {

// A thread that runs `body`. ResourceExhausted if there can be none (man 3 pthread_create, EAGAIN:
// memory, or the pids limit of the cgroup): std::thread would throw, and end the process.
// Thread-safe.
absl::StatusOr<std::thread> StartThread(std::function<void()> body);

}  // namespace davit::sys

#endif  // DAVIT_RUNTIME_SYS_THREAD_H_
