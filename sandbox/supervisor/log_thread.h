#ifndef DAVIT_SANDBOX_SUPERVISOR_LOG_THREAD_H_
#define DAVIT_SANDBOX_SUPERVISOR_LOG_THREAD_H_

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

// The inside of LogWriter: what its thread does. Nothing here allocates; errors are errno values.
namespace davit::sandbox {

// One read(2); also a pipe's usual size.
inline constexpr size_t kLogReadSize = 64 * 1024;
inline constexpr size_t kLogOutputSize = 128 * 1024;

// One output stream of a container.
struct LogStream {
  ContainerLog* log = nullptr;
  sys::UniqueFd fd;
  bool is_stderr = false;
  bool watched = false;
  bool paused = false;  // watched edge-triggered
  // Read but not formatted yet: an unfinished line, or, while the file cannot be written, up to one
  // read more.
  char* kept = nullptr;
  size_t kept_size = 0;

  bool ended() const { return !fd.ok(); }
};

// Memory comes from one anonymous mapping per log, whose pages exist only once they are touched.
class ContainerLog {
 public:
  ContainerLog(std::string log_path, size_t max_line);
  ~ContainerLog();
  bool ok() const { return memory_ != nullptr; }

  const std::string path;
  // Of LogStream::kept and of `unwritten`.
  const size_t kept_capacity;
  const size_t unwritten_capacity;
  LogStream streams[2];
  bool tty = false;
  sys::UniqueFd file;

  // Formatted entries the file did not take: unwritten[write_at, size). write_at is beyond
  // line_start if the entry at line_start was written in part.
  char* unwritten = nullptr;
  size_t line_start = 0;
  size_t write_at = 0;
  size_t unwritten_size = 0;
  int write_error = 0;   // why; 0 while the file takes what it is given
  int64_t retry_at = 0;  // ms of CLOCK_MONOTONIC

  bool finishing = false;
  int64_t finish_deadline = 0;
  LogWriter::Command* finish_command = nullptr;
  ContainerLog* next = nullptr;  // of the thread's list

  bool blocked() const { return unwritten_size != 0; }
  bool streams_ended() const { return streams[0].ended() && streams[1].ended(); }

 private:
  void* memory_ = nullptr;
  size_t memory_size_ = 0;
};

// A request to the thread; comes back as a completion. Allocated and freed by the owner.
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
  sys::UniqueFd wake;            // eventfd of the thread
  int completed_event = -1;
  int64_t resumes = 0;  // a kSuspend that was given before the last of them is void
  std::condition_variable resumed;
};

class LogWriter::Thread {
 public:
  Thread(Shared* shared, size_t max_line) : shared_(shared), max_line_(max_line) {}
  ~Thread();

  // Takes what the thread needs; returns an errno value.
  int Prepare();
  void Run();

 private:
  bool RunCommands();
  void Complete(Command* command, int error);
  // Tells that it rests, and rests until it is to go on.
  void Rest(Command* suspend);
  void AdoptLog(ContainerLog* log);
  int OpenLog(ContainerLog* log);
  int OpenFileAndStreams(ContainerLog* log);
  int ReopenLog(ContainerLog* log);
  void CloseLog(ContainerLog* log);

  int WatchStream(LogStream* stream);
  void PauseStream(LogStream* stream);
  void DropStream(LogStream* stream);
  // Nothing more comes: what was kept becomes a P entry.
  void EndStream(LogStream* stream);

  // Reads until the stream is empty (or a fair share was read) and writes entries.
  void Serve(LogStream* stream);
  // Formats and writes `size` bytes at `data`, which is writable memory of this thread; keeps the
  // rest with the stream.
  void Take(LogStream* stream, char* data, size_t size, bool end);
  void Write(ContainerLog* log, const char* data, size_t size);
  // Tries a blocked log again.
  void Resume(ContainerLog* log);
  void CheckFinished(ContainerLog* log, int64_t now);
  int NextTimeout(int64_t now) const;
  void Housekeep(int64_t now);
  void TrimBuffers();

  Shared* const shared_;
  const size_t max_line_;
  sys::UniqueFd epoll_;
  ContainerLog* logs_ = nullptr;
  LogClock clock_;
  void* memory_ = nullptr;
  size_t memory_size_ = 0;
  char* input_ = nullptr;  // room for a kept line, then one read
  char* output_ = nullptr;
  bool buffers_used_ = false;  // beyond their first page
  int64_t last_used_ = 0;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_LOG_THREAD_H_
