#ifndef DAVIT_SANDBOX_SUPERVISOR_LOG_THREAD_H_
#define DAVIT_SANDBOX_SUPERVISOR_LOG_THREAD_H_

#include <pthread.h>

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>

#include "absl/strings/string_view.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/supervisor/log_format.h"
#include "sandbox/supervisor/log_writer.h"

// The inside of LogWriter: what its threads do. Nothing here allocates; errors are errno values.
//
// One worker leads: it waits for output, formats it, carries out commands. It holds the state's
// lock but while it waits, and while it works on a file, which can take as long as a disk pleases.
// If that takes too long, the owner starts another worker that leads from then on; the first ends
// once its system call has returned. So there is one thread as long as disks answer, and one more
// for each log whose file does not.
namespace davit::sandbox {

// One read(2); also a pipe's usual size.
inline constexpr size_t kLogReadSize = 64 * 1024;
inline constexpr size_t kLogOutputSize = 128 * 1024;
// How long a system call on a log's file may take before others no longer wait for it.
inline constexpr int64_t kLogStallMs = 200;

int64_t LogNowMs();  // CLOCK_MONOTONIC
// Room before the read buffer for an unfinished line, page-aligned.
size_t KeptLineSize(size_t max_line);
// What one call of FormatLog is given for its output.
size_t LogChunkSize(size_t max_line);

// One output stream of a container.
struct LogStream {
  ContainerLog* log = nullptr;
  sys::UniqueFd fd;
  bool is_stderr = false;
  bool watched = false;
  bool paused = false;  // watched edge-triggered
  // Read but not formatted yet: an unfinished line, or, while the log takes no more, up to one read
  // more.
  char* kept = nullptr;
  size_t kept_size = 0;

  // Dropped since the last entry, and not told in the log yet.
  uint64_t dropped_lines = 0;
  uint64_t dropped_bytes = 0;
  bool dropping_line = false;  // the rest of the line that is being read is dropped, too

  bool ended() const { return !fd.ok(); }
};

// Memory comes from one anonymous mapping per log, whose pages exist only once they are touched.
//
// All that a log is between two steps of the leader: the descriptors, what was read but not
// formatted (`kept` of each stream), and what was formatted but not written (`unwritten`).
class ContainerLog {
 public:
  ContainerLog(std::string log_path, size_t max_line, size_t buffer_size);
  ~ContainerLog();
  bool ok() const { return memory_ != nullptr; }

  const std::string path;
  // Of LogStream::kept and of `unwritten`.
  const size_t kept_capacity;
  const size_t unwritten_capacity;
  LogStream streams[2];
  bool tty = false;
  sys::UniqueFd file;

  // Formatted entries the file did not take yet: unwritten[write_at, size). write_at is beyond
  // line_start if the entry at line_start was written in part. At most the configured buffer, and
  // one chunk of output more where a write was cut short.
  char* unwritten = nullptr;
  size_t line_start = 0;
  size_t write_at = 0;
  size_t unwritten_size = 0;
  int write_error = 0;   // why; 0 while the file takes what it is given
  int64_t retry_at = 0;  // ms of CLOCK_MONOTONIC

  // A worker is in a system call on the file, without the lock. What it writes is
  // unwritten[write_at, size) as of its beginning, or its own output buffer of `in_flight` bytes.
  // Others may only append.
  bool busy = false;
  bool stalled = false;   // ... and leads no more
  bool catch_up = false;  // a new leader has lines in `kept` that nobody may add to
  size_t in_flight = 0;
  LogWriter::Command* deferred = nullptr;  // came while busy; oldest first

  bool finishing = false;
  int64_t finish_deadline = 0;
  LogWriter::Command* finish_command = nullptr;
  ContainerLog* next = nullptr;  // of the engine's list

  uint64_t dropped_lines = 0;  // since the log was opened
  uint64_t dropped_bytes = 0;
  int64_t told_at = 0;  // when the owner was last told of what is dropped
  ContainerLog* next_changed = nullptr;
  bool changed = false;
  std::function<void(const LogHealth&)> on_health;  // the owner's

  // The file has not all that was formatted: what comes now goes behind it.
  bool behind() const { return busy || unwritten_size != 0; }
  bool streams_ended() const { return streams[0].ended() && streams[1].ended(); }

 private:
  void* memory_ = nullptr;
  size_t memory_size_ = 0;
};

// A request to the leader; comes back as a completion. Allocated and freed by the owner.
struct LogWriter::Command {
  // kAdopt: takes over a log that is open already.
  enum Kind { kOpen, kReopen, kFinish, kClose, kStop, kSuspend, kAdopt };
  int kind = kOpen;
  ContainerLog* log = nullptr;
  int64_t deadline = 0;  // of kSuspend: the count of resumes
  int error = 0;
  Done done;
  Command* next = nullptr;
};

struct LogWriter::Shared {
  std::mutex mutex;
  Command* submitted = nullptr;  // newest first
  Command* completed = nullptr;  // newest first
  sys::UniqueFd wake;            // eventfd of the leader
  sys::UniqueFd timer;           // timerfd of the owner: the leader's system call takes long
  int completed_event = -1;
  int64_t resumes = 0;  // a kSuspend that was given before the last of them is void
  std::condition_variable resumed;
};

// One thread and its buffers, by which two workers never meet.
struct LogWriter::Worker {
  Worker() = default;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker();
  // ENOMEM, or 0.
  int Prepare(size_t max_line);

  pthread_t handle{};
  char* input = nullptr;  // room for a kept line, then one read
  char* output = nullptr;
  // Below: guarded by the engine's mutex.
  ContainerLog* working_on = nullptr;  // its system call
  int64_t working_since = 0;
  // What it has read but not formatted yet: a new leader has to go on with that.
  LogStream* in_hand_stream = nullptr;
  const char* in_hand = nullptr;
  size_t in_hand_size = 0;
  bool ended = false;  // may be joined

 private:
  void* memory_ = nullptr;
  size_t memory_size_ = 0;
};

class LogWriter::Thread {
 public:
  Thread(Shared* shared, const Options& options) : shared_(shared), options_(options) {}

  // Takes what it needs; returns an errno value.
  int Prepare();
  void Run(Worker* worker);

  // For the owner. The leader's system call takes longer than it should: then it is true, and
  // otherwise the timer has been set anew.
  bool LeaderIsStuck();
  void CheckLater() { SetTimer(kLogStallMs); }
  // `worker`, which is going to be run, leads from now on. False: the leader is not stuck any more.
  bool Replace(Worker* worker);
  // The first leader.
  void SetLeader(Worker* worker) { leader_ = worker; }
  // Logs whose health has changed, by next_changed, and each one's health in the callback.
  template <typename Callback>
  void TakeChanges(const Callback& callback) {
    for (;;) {
      ContainerLog* log;
      LogHealth health;
      {
        std::lock_guard<std::mutex> lock(mutex_);
        log = changes_;
        if (log == nullptr) return;
        changes_ = log->next_changed;
        log->changed = false;
        health = HealthOf(*log);
      }
      callback(log, health);
    }
  }
  // Ended workers may be joined.
  bool Ended(const Worker* worker);

 private:
  friend class LogFileWork;

  // The lock is held in everything below, except in epoll_wait and on files.
  bool Leads(const Worker* worker) const { return leader_ == worker; }
  void FetchCommands();
  void RunCommands(Worker* worker);
  // False: the command has to be run again, by the next leader.
  bool RunCommand(Worker* worker, Command* command);
  void Defer(Command* command);
  void Complete(Command* command, int error);
  // Tells that it rests, and rests until it is to go on: once no worker is in a system call.
  void RestIfWanted();
  void AdoptLog(ContainerLog* log);
  int OpenLog(Worker* worker, ContainerLog* log);
  int OpenFileAndStreams(Worker* worker, ContainerLog* log);
  int ReopenLog(Worker* worker, ContainerLog* log);
  void FinishLog(Worker* worker, Command* command);
  bool CloseLog(Worker* worker, ContainerLog* log);
  void CheckFinished(Worker* worker, ContainerLog* log, int64_t now);
  int NextTimeout(int64_t now) const;
  void Housekeep(Worker* worker);
  void TrimBuffers(Worker* worker);

  // ---- streams (log_stream.cc)
  int WatchStream(LogStream* stream);
  void PauseStream(LogStream* stream);
  void DropStream(LogStream* stream);
  // Nothing more comes: what was kept becomes a P entry.
  void EndStream(Worker* worker, LogStream* stream);
  // Reads until the stream is empty (or a fair share was read) and writes entries.
  void Serve(Worker* worker, LogStream* stream);
  // Formats `size` bytes at `data`, which is writable memory of this worker, and writes them or
  // puts them behind what is not written yet; keeps the rest with the stream.
  void Take(Worker* worker, LogStream* stream, char* data, size_t size, bool end);
  // The same with what was kept.
  void TakeKept(Worker* worker, LogStream* stream);
  // The log takes no more: its buffer is full.
  bool Full(const ContainerLog* log) const;
  size_t Room(const ContainerLog* log) const;
  // Counts the whole lines in front of `data` and forgets them. Returns how much it was.
  size_t Drop(LogStream* stream, const char* data, size_t size, bool end);
  size_t SkipDroppedLine(LogStream* stream, const char* data, size_t size);
  void AppendNotice(LogStream* stream);

  // ---- files (log_file.cc)
  // False: another leads now, and has the rest.
  bool Write(Worker* worker, ContainerLog* log, const char* data, size_t size);
  void KeepUnwritten(ContainerLog* log, const char* data, size_t size, size_t written);
  // Writes what is behind. When all of it is, streams that waited go on.
  void Resume(Worker* worker, ContainerLog* log);
  void Advance(ContainerLog* log, size_t written);
  void Drained(Worker* worker, ContainerLog* log);
  void SetError(ContainerLog* log, int error);
  void Changed(ContainerLog* log);
  void Wake();
  void SetTimer(int64_t ms);
  static LogHealth HealthOf(const ContainerLog& log);
  int64_t StuckIn() const { return leader_->working_since + kLogStallMs - LogNowMs(); }

  Shared* const shared_;
  const Options options_;
  sys::UniqueFd epoll_;
  std::mutex mutex_;  // of all below, of every ContainerLog, and of the workers
  Worker* leader_ = nullptr;
  Command* commands_ = nullptr;  // oldest first
  ContainerLog* logs_ = nullptr;
  ContainerLog* changes_ = nullptr;
  Command* suspend_ = nullptr;
  LogClock clock_;
  bool stopping_ = false;
  bool buffers_used_ = false;  // the leader's, beyond their first page
  int64_t last_used_ = 0;
};

// Work on a log's file, for as long as it lives: without the lock, and with an eye on the clock.
class LogFileWork {
 public:
  LogFileWork(LogWriter::Thread* thread, LogWriter::Worker* worker, ContainerLog* log);
  ~LogFileWork();
  LogFileWork(const LogFileWork&) = delete;
  LogFileWork& operator=(const LogFileWork&) = delete;

 private:
  LogWriter::Thread* const thread_;
  LogWriter::Worker* const worker_;
  ContainerLog* const log_;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_LOG_THREAD_H_
