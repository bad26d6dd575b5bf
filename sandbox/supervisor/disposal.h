#ifndef DAVIT_SANDBOX_SUPERVISOR_DISPOSAL_H_
#define DAVIT_SANDBOX_SUPERVISOR_DISPOSAL_H_

#include <functional>

#include "absl/time/time.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/child_reaper.h"
#include "sandbox/supervisor/event_loop.h"

namespace davit::sandbox {

// Closes `fd` where it may block (the last reference to an overlay writes back its upper layer,
// which lies on a user's disk): in a child process that does only that. `done` is called once,
// later, when it is closed or when `patience` is over; then the child is killed, and the kernel
// closes the descriptor as soon as it can.
void CloseInChild(EventLoop* loop, ChildReaper* reaper, sys::UniqueFd fd, absl::Duration patience,
                  std::function<void()> done);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_DISPOSAL_H_
