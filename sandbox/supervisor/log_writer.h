#ifndef DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_H_
#define DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_H_

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/upgrade.pb.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/descriptors.h"
#include "sandbox/supervisor/log_format.h"

// The one thread of a pod that moves what containers print into their CRI log files (log_format.h).
// It waits for nobody: not for the daemon, and the event loop does not wait for the disk.
namespace davit::sandbox {

class ContainerLog;

// All methods are called from one thread, the owner's. The thread behind them never allocates: the
// memory of a log is reserved when it is opened, and costs nothing until it is used.
//
// When a log file cannot be written (a full disk), the output read so far is kept, at most one read
// of each stream, the container's pipes fill, and it blocks in its next write; nothing is lost. It
// is tried again every 100 ms.
class LogWriter {
 public:
  // `error` is 0 or an errno value.
  using Done = std::function<void(int error)>;

  // Starts the thread. `max_line` is how many bytes of content an entry holds (256 to 1 MiB).
  static absl::StatusOr<std::unique_ptr<LogWriter>> Start(size_t max_line);
  // In two steps, for a writer that begins with Restore.
  static absl::StatusOr<std::unique_ptr<LogWriter>> Create(size_t max_line);
  absl::Status StartThread();
  // Stops it; what was read is written if the disk takes it at once, what was not is lost.
  ~LogWriter();

  // Becomes readable when completions wait for RunCompletions.
  int completion_fd() const { return completed_event_.get(); }
  void RunCompletions();

  struct Streams {
    sys::UniqueFd out;  // a pipe's reading end or a pty's master; either may be absent
    sys::UniqueFd err;
    bool tty = false;
  };
  // Opens (appending) or creates `path`, mode 0640, with missing parent directories, then moves the
  // streams' data into it. With an empty path the output is read and dropped. The log is valid
  // whatever the result, until Close; after an error nothing is read.
  ContainerLog* Open(const std::string& path, Streams streams, Done done);

  // Opens the path again, after the file was renamed. Every entry is whole in one of the two
  // files. On failure the old file stays in use and no new one was made.
  void Reopen(ContainerLog* log, Done done);

  // The container has ended: reads what is left until every stream ends, at most until `timeout`
  // (a process outside the container may hold a stream open), and then stops reading. An
  // unfinished line becomes a P entry. `done` gets ETIMEDOUT if a stream did not end, ENOSPC or
  // another error if not all of it could be written yet; writing goes on being tried until Close.
  void Finish(ContainerLog* log, absl::Duration timeout, Done done);

  // Frees the log. Pending callbacks of it still run, before `done`.
  void Close(ContainerLog* log, Done done);

  // ---- for a supervisor whose program is about to be replaced (proto/upgrade.proto)

  // Lets the thread come to rest between two pieces of work: `done` is called when it reads and
  // writes nothing any more. Output waits in the pipes meanwhile. Not again before `done`.
  void Suspend(Done done);
  // It works on. Also before `done` has been called; then the thread was never at rest.
  void Resume();
  // At rest, with every command that was given carried out, but for Finish, and every callback
  // called: what Save then tells of the logs is all there is.
  bool AtRest() const;
  // The log as it is, at rest, with every byte read and not written yet. What is new in
  // ContainerLog or LogStream and outlives a command belongs into LogState.
  upgrade::v1::LogState Save(const ContainerLog& log, SavedDescriptors* descriptors) const;
  // The log again; before StartThread. A Finish that was under way has to be asked for again.
  absl::StatusOr<ContainerLog*> Restore(const upgrade::v1::LogState& state,
                                        InheritedDescriptors* descriptors);

 private:
  friend class ContainerLog;
  class Thread;
  struct Command;
  struct Shared;

  LogWriter() = default;
  void Submit(ContainerLog* log, int kind, int64_t deadline, Done done);

  std::vector<ContainerLog*> logs_;  // owned
  std::unique_ptr<Shared> shared_;
  std::unique_ptr<Thread> thread_;
  sys::UniqueFd completed_event_;
  pthread_t handle_{};
  bool running_ = false;
  bool at_rest_ = false;
  size_t max_line_ = 0;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_H_
