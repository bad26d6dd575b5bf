// LogWriter's files: from entries to the disk.

#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "sandbox/supervisor/log_thread.h"

namespace davit::sandbox {
namespace {

constexpr int64_t kRetryMs = 100;
constexpr size_t kPage = 4096;

// Makes the directories above `path`; the log's own directory is the kubelet's and usually there.
int MakeParents(const std::string& path) {
  char name[PATH_MAX];
  if (path.size() >= sizeof name) return ENAMETOOLONG;
  for (size_t slash = path.find('/', 1); slash != std::string::npos;
       slash = path.find('/', slash + 1)) {
    memcpy(name, path.data(), slash);
    name[slash] = '\0';
    if (mkdir(name, 0755) != 0 && errno != EEXIST) return errno;
  }
  return 0;
}

// O_NONBLOCK: a FIFO planted at the path must not stop the log of the whole pod; it is refused.
// O_NOFOLLOW: a pod that may write to the node's log directory must not choose, by a link, which of
// the node's files its output is appended to.
int OpenFile(const std::string& path, sys::UniqueFd* file) {
  constexpr int kFlags =
      O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW;
  sys::UniqueFd fd(open(path.c_str(), kFlags, 0640));
  if (!fd.ok()) return errno;
  struct stat st;
  if (fstat(fd.get(), &st) != 0) return errno;
  if (!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) return EINVAL;
  *file = std::move(fd);
  return 0;
}

int WriteOnce(int fd, const char* data, size_t size, size_t* written) {
  ssize_t n;
  do {
    n = write(fd, data, size);
  } while (n < 0 && errno == EINTR);
  *written = n > 0 ? static_cast<size_t>(n) : 0;
  if (n > 0) return 0;
  return n < 0 ? errno : EIO;
}

// The old file ends with `torn` bytes of an entry that moves to another file as a whole.
void CutTornEntry(int fd, off_t torn) {
  struct stat st;
  if (fstat(fd, &st) == 0 && st.st_size >= torn) {
    [[maybe_unused]] const int result = ftruncate(fd, st.st_size - torn);
  }
}

}  // namespace

LogFileWork::LogFileWork(LogWriter::Thread* thread, LogWriter::Worker* worker, ContainerLog* log)
    : thread_(thread), worker_(worker), log_(log) {
  log->busy = true;
  worker->working_on = log;
  worker->working_since = LogNowMs();
  if (thread->Leads(worker)) thread->SetTimer(kLogStallMs);
  thread->mutex_.unlock();
}

LogFileWork::~LogFileWork() {
  thread_->mutex_.lock();
  log_->busy = false;
  worker_->working_on = nullptr;
  if (thread_->Leads(worker_)) {
    thread_->SetTimer(0);
    return;
  }
  log_->stalled = false;
  log_->retry_at = 0;
  thread_->Changed(log_);
  thread_->Wake();
}

void LogWriter::Thread::SetTimer(int64_t ms) {
  itimerspec when{};
  when.it_value.tv_sec = ms / 1000;
  when.it_value.tv_nsec = ms % 1000 * 1'000'000;
  timerfd_settime(shared_->timer.get(), 0, &when, nullptr);
}

void LogWriter::Thread::Wake() {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(shared_->wake.get(), &one, sizeof one);
}

void LogWriter::Thread::Changed(ContainerLog* log) {
  if (log->changed) return;
  log->changed = true;
  log->next_changed = std::exchange(changes_, log);
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(shared_->completed_event, &one, sizeof one);
}

LogHealth LogWriter::Thread::HealthOf(const ContainerLog& log) {
  LogHealth health;
  health.error = log.stalled ? ETIMEDOUT : log.write_error;
  health.dropped_lines = log.dropped_lines;
  health.dropped_bytes = log.dropped_bytes;
  return health;
}

void LogWriter::Thread::SetError(ContainerLog* log, int error) {
  if (log->write_error == error) return;
  log->write_error = error;
  Changed(log);
}

// ---- opening

int LogWriter::Thread::OpenLog(Worker* worker, ContainerLog* log) {
  log->next = std::exchange(logs_, log);
  const int error = OpenFileAndStreams(worker, log);
  if (error != 0) {
    for (LogStream& stream : log->streams) DropStream(&stream);
    log->file.reset();
  }
  return error;
}

int LogWriter::Thread::OpenFileAndStreams(Worker* worker, ContainerLog* log) {
  if (!log->ok()) return ENOMEM;
  if (!log->path.empty()) {
    const LogFileWork work(this, worker, log);
    int error = OpenFile(log->path, &log->file);
    if (error == ENOENT) {
      error = MakeParents(log->path);
      if (error == 0) error = OpenFile(log->path, &log->file);
    }
    if (error != 0) return error;
  }
  for (LogStream& stream : log->streams) {
    if (stream.ended()) continue;
    const int flags = fcntl(stream.fd.get(), F_GETFL);
    if (flags < 0 || fcntl(stream.fd.get(), F_SETFL, flags | O_NONBLOCK) != 0) return errno;
    if (const int error = WatchStream(&stream); error != 0) return error;
  }
  return 0;
}

int LogWriter::Thread::ReopenLog(Worker* worker, ContainerLog* log) {
  if (log->path.empty()) return 0;
  if (log->unwritten_size != 0) Resume(worker, log);
  sys::UniqueFd file;
  {
    const LogFileWork work(this, worker, log);
    // The directory is not made here: if it is gone, the rotation failed.
    if (const int error = OpenFile(log->path, &file); error != 0) return error;
    if (log->write_at > log->line_start) {
      CutTornEntry(log->file.get(), static_cast<off_t>(log->write_at - log->line_start));
      log->write_at = log->line_start;
    }
    std::swap(log->file, file);
    file.reset();
  }
  log->retry_at = 0;
  if (Leads(worker) && log->unwritten_size != 0) Resume(worker, log);
  return 0;
}

// ---- writing

bool LogWriter::Thread::Write(Worker* worker, ContainerLog* log, const char* data, size_t size) {
  size_t at = 0;
  int error = 0;
  {
    log->in_flight = size;
    const LogFileWork work(this, worker, log);
    while (at < size && error == 0) {
      size_t written;
      error = WriteOnce(log->file.get(), data + at, size - at, &written);
      at += written;
    }
  }
  log->in_flight = 0;
  if (at < size) KeepUnwritten(log, data, size, at);
  SetError(log, error);
  if (error != 0) log->retry_at = LogNowMs() + kRetryMs;
  return Leads(worker);
}

// From the start of the entry that was cut, so that a new file can have it whole. Others may have
// put entries behind it meanwhile.
void LogWriter::Thread::KeepUnwritten(ContainerLog* log, const char* data, size_t size,
                                      size_t written) {
  size_t line = written;
  while (line > 0 && data[line - 1] != '\n') --line;
  memmove(log->unwritten + (size - line), log->unwritten, log->unwritten_size);
  memcpy(log->unwritten, data + line, size - line);
  log->unwritten_size += size - line;
  log->line_start = 0;
  log->write_at = written - line;
}

void LogWriter::Thread::Resume(Worker* worker, ContainerLog* log) {
  while (log->write_at < log->unwritten_size) {
    const char* const data = log->unwritten + log->write_at;
    const size_t size = log->unwritten_size - log->write_at;
    size_t written = 0;
    int error;
    {
      const LogFileWork work(this, worker, log);
      error = WriteOnce(log->file.get(), data, size, &written);
    }
    Advance(log, written);
    if (error != 0) {
      SetError(log, error);
      log->retry_at = LogNowMs() + kRetryMs;
      return;
    }
    if (!Leads(worker)) return;
  }
  Drained(worker, log);
}

void LogWriter::Thread::Advance(ContainerLog* log, size_t written) {
  const size_t to = log->write_at + written;
  for (size_t i = to; i > log->write_at; --i) {
    if (log->unwritten[i - 1] != '\n') continue;
    log->line_start = i;
    break;
  }
  log->write_at = to;
  if (log->line_start == 0 || log->write_at == log->unwritten_size) return;
  memmove(log->unwritten, log->unwritten + log->line_start, log->unwritten_size - log->line_start);
  log->write_at -= log->line_start;
  log->unwritten_size -= log->line_start;
  log->line_start = 0;
}

void LogWriter::Thread::Drained(Worker* worker, ContainerLog* log) {
  madvise(log->unwritten, (log->unwritten_size + kPage - 1) & ~(kPage - 1), MADV_DONTNEED);
  log->line_start = log->write_at = log->unwritten_size = 0;
  SetError(log, 0);
  for (LogStream& stream : log->streams) {
    // What was read before comes first.
    TakeKept(worker, &stream);
    if (!Leads(worker)) {
      log->catch_up = true;
      return;
    }
    if (!stream.ended() && stream.paused && !(Full(log) && !options_.drop_when_full)) {
      WatchStream(&stream);
    }
  }
}

}  // namespace davit::sandbox
