#include "sandbox/supervisor/disposal.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>

#include "runtime/sys/spawn.h"
#include "runtime/sys/syscalls.h"

namespace davit::sandbox {
namespace {

namespace raw = sys::raw;

struct Disposal {
  sys::UniqueFd pidfd;
  EventLoop::TimerId timer = 0;
  std::function<void()> done;
};

void CloseAllBut(int one, int other) {
  const auto low = static_cast<unsigned>(std::max(0, std::min(one, other)));
  const auto high = static_cast<unsigned>(std::max(one, other));
  if (low > 0) raw::CloseRange(0, low - 1, 0);
  if (high > low + 1) raw::CloseRange(low + 1, high - 1, 0);
  raw::CloseRange(high + 1, ~0u, 0);
}

}  // namespace

void CloseInChild(EventLoop* loop, ChildReaper* reaper, sys::UniqueFd fd, absl::Duration patience,
                  std::function<void()> done) {
  auto disposal = std::make_shared<Disposal>();
  disposal->done = std::move(done);
  const auto call_done = [disposal] {
    if (auto callback = std::exchange(disposal->done, nullptr)) callback();
  };
  if (!fd.ok()) {
    loop->After(absl::ZeroDuration(), call_done);
    return;
  }
  int pipe_fds[2];
  if (pipe2(pipe_fds, O_CLOEXEC) != 0) pipe_fds[0] = pipe_fds[1] = -1;
  sys::UniqueFd closed_reader(pipe_fds[0]), closed_writer(pipe_fds[1]);
  int pidfd = -1;
  clone_args args{};
  args.flags = CLONE_PIDFD;
  args.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  args.exit_signal = SIGCHLD;
  const long pid = raw::Clone3(args);
  if (pid == 0) {
    // The copies of everything else go first: none of them may stay open while this one blocks.
    CloseAllBut(fd.get(), closed_reader.get());
    // Until the parent has closed its own copy, closing this one would achieve nothing.
    char byte;
    raw::Read(closed_reader.get(), &byte, 1);
    raw::Exit(0);
  }
  if (pid < 0) {
    // Without a process to do it, it is done here.
    fd.reset();
    loop->After(absl::ZeroDuration(), call_done);
    return;
  }
  fd.reset();
  closed_writer.reset();
  disposal->pidfd.reset(pidfd);
  disposal->timer = loop->After(patience, [disposal, call_done] {
    disposal->timer = 0;
    sys::KillPidfd(disposal->pidfd.get(), SIGKILL).IgnoreError();
    call_done();
  });
  const absl::Status awaited =
      reaper->Await(static_cast<pid_t>(pid), pidfd, [loop, disposal, call_done](int) {
        if (disposal->timer != 0) {
          loop->Cancel(std::exchange(disposal->timer, 0));
        }
        call_done();
      });
  if (!awaited.ok()) call_done();  // the orphan sweep reaps it
}

}  // namespace davit::sandbox
