#ifndef DAVIT_SANDBOX_SUPERVISOR_CLIENT_H_
#define DAVIT_SANDBOX_SUPERVISOR_CLIENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/supervisor.pb.h"
#include "runtime/sys/mutex.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/io_loop.h"

namespace davit::sandbox {

// davitd's end of the connection to one supervisor (proto/supervisor.proto): requests with
// deadlines, any number in flight, and events. Served by the loop that is given; thread-safe.
// All callbacks run on the loop's thread and must not block.
//
// A supervisor is not trusted to keep to the protocol: what is no message, too large, a reply to
// what was never asked or of another kind than was asked for, or comes with descriptors that do not
// belong there, ends the connection (DataLoss); and one that never stops talking gets no more than
// its share of the loop.
class SupervisorClient : public std::enable_shared_from_this<SupervisorClient> {
 public:
  struct Listener {
    // ContainerExited and OutOfMemory.
    std::function<void(const supervisor::v1::FromSupervisor&)> event;
    // The connection is gone, without Close having been called. Once, after every pending call has
    // failed.
    std::function<void(const absl::Status&)> closed;
  };
  struct Answer {
    supervisor::v1::Reply reply;
    std::vector<sys::UniqueFd> fds;
  };
  using Callback = std::function<void(absl::StatusOr<Answer>)>;
  using ExecCallback = std::function<void(absl::StatusOr<supervisor::v1::ExecExited>)>;

  // Takes a connected SOCK_SEQPACKET socket. The loop must outlive the client.
  static absl::StatusOr<std::shared_ptr<SupervisorClient>> Start(IoLoop* loop, sys::UniqueFd socket,
                                                                 Listener listener);
  ~SupervisorClient();

  // Sends `request` (its request_id is set here) with descriptors, which are borrowed until this
  // returns, and calls back exactly once: with the reply; with the supervisor's error as a Status
  // (ErrorStatus); DeadlineExceeded when the reply does not come in time, in which case a late one
  // is dropped; Unavailable when the connection is or goes down.
  void Call(supervisor::v1::ToSupervisor request, std::span<const int> fds, absl::Duration timeout,
            Callback callback);
  // The same, waiting on the caller's thread, which must not be the loop's.
  absl::StatusOr<Answer> CallAndWait(supervisor::v1::ToSupervisor request, std::span<const int> fds,
                                     absl::Duration timeout);

  // Calls back once when the exec session ends, or the connection does (Unavailable). Registered
  // before the Exec request is sent, since the end may be told before the reply is seen.
  void ExpectExec(const std::string& exec_id, ExecCallback callback);
  void ForgetExec(const std::string& exec_id);

  // Ends the connection: pending calls fail with Unavailable, `closed` is not called and no event
  // follows once the loop has come round. Idempotent.
  void Close();
  bool connected() const;

 private:
  struct Pending {
    supervisor::v1::ToSupervisor::RequestCase request;
    bool wants_terminal = false;  // an Exec whose reply carries the pty
    Callback callback;
    IoLoop::Handle timer = 0;
  };

  SupervisorClient(IoLoop* loop, sys::UniqueFd socket, Listener listener);
  void OnReadable();
  // DataLoss: the message breaks the protocol.
  absl::Status OnMessage(supervisor::v1::FromSupervisor message, std::vector<sys::UniqueFd> fds);
  absl::Status OnReply(supervisor::v1::Reply reply, std::vector<sys::UniqueFd> fds);
  void OnTimeout(uint64_t request_id);
  // On the loop: ends the connection because of `why`.
  void Fail(const absl::Status& why, bool tell);

  IoLoop* const loop_;
  const sys::UniqueFd socket_;
  Listener listener_;         // used on the loop only
  IoLoop::Handle watch_ = 0;  // used on the loop only

  mutable sys::Mutex mutex_;
  bool connected_ ABSL_GUARDED_BY(mutex_) = true;
  uint64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<uint64_t, Pending> pending_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, ExecCallback> execs_ ABSL_GUARDED_BY(mutex_);
};

// The supervisor's failure as a Status: its code and its sentence.
absl::Status ErrorStatus(const supervisor::v1::Error& error);

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_CLIENT_H_
