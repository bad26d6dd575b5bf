#ifndef DAVIT_SANDBOX_EXEC_SESSION_H_
#define DAVIT_SANDBOX_EXEC_SESSION_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/io_loop.h"
#include "sandbox/manager.h"
#include "sandbox/supervisor_client.h"

namespace davit::sandbox {

// One command run to its end in a container, its output collected. Holds no thread: the loop reads
// the pipes. The whole output of the command itself is there when it has exited; a process that it
// left behind may hold the pipes open, and is not waited for longer than kLinger.
class ExecSession : public std::enable_shared_from_this<ExecSession> {
 public:
  using Done = std::function<void(absl::StatusOr<ExecResult>)>;
  static constexpr absl::Duration kLinger = absl::Milliseconds(500);

  struct Request {
    std::string container_id;
    std::string exec_id;
    int plan_fd = -1;     // borrowed until Start returns
    int seccomp_fd = -1;  // likewise; -1 = none
    bool tty = false;
    absl::Duration timeout = absl::InfiniteDuration();
    size_t output_limit = 0;
  };

  // Sends the request; `done` is called exactly once, from the loop's thread.
  // DeadlineExceeded: the time is over and every process of the session has been killed.
  static void Start(IoLoop* loop, std::shared_ptr<SupervisorClient> client, const Request& request,
                    Done done);

 private:
  // A pipe or pty that the command writes to.
  struct Stream {
    sys::UniqueFd fd;
    IoLoop::Handle watch = 0;
    std::string* into = nullptr;
  };

  ExecSession(IoLoop* loop, std::shared_ptr<SupervisorClient> client, const Request& request,
              Done done);
  void Send(const Request& request);
  // All of these on the loop.
  void OnReply(absl::StatusOr<SupervisorClient::Answer> answer);
  void OnExited(absl::StatusOr<supervisor::v1::ExecExited> exited);
  void OnOverdue();
  void BeginReading(Stream* stream);
  void Read(Stream* stream);
  void CloseStream(Stream* stream);
  void FinishIfComplete();
  void Finish(absl::Status status);

  IoLoop* const loop_;
  const std::shared_ptr<SupervisorClient> client_;
  const std::string exec_id_;
  const size_t limit_;
  Done done_;
  ExecResult result_;
  Stream out_;
  Stream err_;
  IoLoop::Handle overdue_timer_ = 0;
  IoLoop::Handle linger_timer_ = 0;
  bool started_ = false;
  bool exited_ = false;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_EXEC_SESSION_H_
