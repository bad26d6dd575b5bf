#ifndef DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_H_
#define DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_H_

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

// What moves a pod's containers' output into their CRI log files (log_format.h), on a thread of its
// own. It waits for nobody: not for the daemon, and the event loop does not wait for the disk.
namespace davit::sandbox {

class ContainerLog;

// How a log's file does.
struct LogHealth {
  // Why it takes nothing, as errno; ETIMEDOUT: a system call on it does not return. 0: all is well.
  int error = 0;
  // Since the log was opened.
  uint64_t dropped_lines = 0;
  uint64_t dropped_bytes = 0;
};

// All methods are called from one thread, the owner's. The thread behind them never allocates: the
// memory of a log is reserved when it is opened, and costs nothing until it is used.
//
// A log file that cannot be written (a full disk) is tried again every 100 ms; one whose disk does
// not answer keeps its thread, and a second one goes on with all other logs. Either way output is
// read into the log's buffer meanwhile. When that is full, the container's pipes fill, and it
// blocks in its next write; or, with drop_when_full, whole lines are dropped and counted, and an
// entry in the log tells how many are missing there. Entries are never torn, whatever happens.
class LogWriter {
 public:
  // `error` is 0 or an errno value.
  using Done = std::function<void(int error)>;
  using OnHealth = std::function<void(const LogHealth&)>;

  struct Options {
    size_t max_line = 16384;           // bytes of content that an entry holds (256 to 1 MiB)
    size_t buffer_size = 1024 * 1024;  // of entries, for each log; at least 64 KiB and some lines
    bool drop_when_full = false;
  };
  // Starts the thread.
  static absl::StatusOr<std::unique_ptr<LogWriter>> Start(const Options& options);
  // In two steps, for a writer that begins with Restore.
  static absl::StatusOr<std::unique_ptr<LogWriter>> Create(const Options& options);
  absl::Status StartThread();
  // Stops it; what was read was written if the disk takes it at once, what was not is lost. A disk
  // that does not answer is not waited for: then threads and memory stay until the process ends.
  ~LogWriter();

  // Becomes readable when RunCompletions has something to do: completions, or a disk that hangs.
  int completion_fd() const { return events_.get(); }
  void RunCompletions();

  struct Streams {
    sys::UniqueFd out;  // a pipe's reading end or a pty's master; either may be absent
    sys::UniqueFd err;
    bool tty = false;
  };
  // Opens (appending) or creates `path`, mode 0640, with missing parent directories, then moves the
  // streams' data into it. With an empty path the output is read and dropped. The log is valid
  // whatever the result, until Close; after an error nothing is read. `on_health` is called by
  // RunCompletions when the file's health changes, and about once a second while output is dropped.
  ContainerLog* Open(const std::string& path, Streams streams, Done done,
                     OnHealth on_health = nullptr);

  // Opens the path again, after the file was renamed. Every entry is whole in one of the two
  // files. On failure the old file stays in use and no new one was made.
  void Reopen(ContainerLog* log, Done done);

  // The container has ended: reads what is left until every stream ends, at most until `timeout`
  // (a process outside the container may hold a stream open), and then stops reading. An
  // unfinished line becomes a P entry. `done` gets ETIMEDOUT if a stream did not end, ENOSPC or
  // another error if not all of it could be written yet (ETIMEDOUT if the disk does not answer);
  // writing goes on being tried until Close.
  void Finish(ContainerLog* log, absl::Duration timeout, Done done);

  // Frees the log, once its disk has answered. Pending callbacks of it still run, before `done`;
  // on_health does not.
  void Close(ContainerLog* log, Done done);

  // ---- for a supervisor whose program is about to be replaced (proto/upgrade.proto)

  // Lets the thread come to rest between two pieces of work: `done` is called when it reads and
  // writes nothing any more. Output waits in the pipes meanwhile. Not again before `done`. While a
  // disk does not answer there is no rest.
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
                                        InheritedDescriptors* descriptors,
                                        OnHealth on_health = nullptr);

 private:
  friend class ContainerLog;
  friend class LogFileWork;
  class Thread;
  struct Command;
  struct Shared;
  struct Worker;
  struct Abandoned;

  LogWriter();
  absl::Status Prepare(const Options& options);
  // An errno value.
  int RunWorker(Worker* worker);
  void Submit(ContainerLog* log, int kind, int64_t deadline, Done done);
  void RelieveStuckLeader();
  void JoinEndedWorkers();
  // False: one does not end.
  bool JoinAll();

  Options options_;
  std::vector<ContainerLog*> logs_;  // owned
  std::unique_ptr<Shared> shared_;
  std::unique_ptr<Thread> thread_;
  std::vector<std::unique_ptr<Worker>> workers_;  // that run, or whose end was not noticed yet
  std::unique_ptr<Worker> leader_to_run_;         // for which there was no thread yet
  sys::UniqueFd completed_event_;
  bool at_rest_ = false;
  sys::UniqueFd events_;  // epoll of completed_event_ and the timer
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_H_
