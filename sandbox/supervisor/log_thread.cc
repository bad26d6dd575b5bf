#include "sandbox/supervisor/log_thread.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace davit::sandbox {
namespace {

constexpr int kBatch = 16;
// Reads of one stream before the others get their turn.
constexpr int kFairShare = 16;
constexpr int64_t kRetryMs = 100;
constexpr int64_t kTrimMs = 2000;
constexpr size_t kPage = 4096;

size_t RoundToPage(size_t size) { return (size + kPage - 1) & ~(kPage - 1); }

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

// Room before the read buffer for an unfinished line, page-aligned.
size_t KeptLineSize(size_t max_line) { return RoundToPage(max_line + 1); }

char* MapPages(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

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

}  // namespace

ContainerLog::ContainerLog(std::string log_path, size_t max_line)
    : path(std::move(log_path)),
      kept_capacity(KeptLineSize(max_line) + kLogReadSize),
      unwritten_capacity(RoundToPage(kLogOutputSize + kLogPrefixSize + max_line + 1)) {
  const size_t kept = kept_capacity;
  memory_size_ = 2 * kept + unwritten_capacity;
  char* memory = MapPages(memory_size_);
  if (memory == nullptr) return;
  memory_ = memory;
  for (int i = 0; i < 2; ++i) {
    streams[i].log = this;
    streams[i].is_stderr = i == 1;
    streams[i].kept = memory + static_cast<size_t>(i) * kept;
  }
  unwritten = memory + 2 * kept;
}

ContainerLog::~ContainerLog() {
  if (memory_ != nullptr) munmap(memory_, memory_size_);
}

LogWriter::Thread::~Thread() {
  if (memory_ != nullptr) munmap(memory_, memory_size_);
}

int LogWriter::Thread::Prepare() {
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.ok()) return errno;
  epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, shared_->wake.get(), &event) != 0) return errno;
  const size_t input = KeptLineSize(max_line_) + kLogReadSize;
  memory_size_ = input + RoundToPage(kLogOutputSize + kLogPrefixSize + max_line_ + 1);
  char* memory = MapPages(memory_size_);
  if (memory == nullptr) return ENOMEM;
  memory_ = memory;
  input_ = memory;
  output_ = memory + input;
  return 0;
}

void LogWriter::Thread::Run() {
  for (;;) {
    epoll_event events[kBatch];
    const int count = epoll_wait(epoll_.get(), events, kBatch, NextTimeout(NowMs()));
    bool wake = false;
    for (int i = 0; i < count; ++i) {
      auto* stream = static_cast<LogStream*>(events[i].data.ptr);
      if (stream == nullptr) {
        wake = true;
      } else if (!stream->ended() && !stream->log->blocked()) {
        Serve(stream);
      }
    }
    // After the streams: a command may free what an event of this batch points to.
    if (wake && !RunCommands()) return;
    Housekeep(NowMs());
  }
}

int LogWriter::Thread::NextTimeout(int64_t now) const {
  int64_t timeout = -1;
  const auto wait_for = [&](int64_t ms) {
    ms = std::max<int64_t>(ms, 0);
    if (timeout < 0 || ms < timeout) timeout = ms;
  };
  for (const ContainerLog* log = logs_; log != nullptr; log = log->next) {
    if (log->blocked()) wait_for(log->retry_at - now);
    if (log->finish_command != nullptr) wait_for(log->finish_deadline - now);
  }
  if (buffers_used_) wait_for(last_used_ + kTrimMs - now);
  return static_cast<int>(std::min<int64_t>(timeout, INT_MAX));
}

void LogWriter::Thread::Housekeep(int64_t now) {
  for (ContainerLog* log = logs_; log != nullptr; log = log->next) {
    if (log->blocked() && now >= log->retry_at) {
      log->retry_at = now + kRetryMs;
      Resume(log);
    }
    if (log->finishing) CheckFinished(log, now);
  }
  if (buffers_used_ && now - last_used_ >= kTrimMs) TrimBuffers();
}

// A burst must not cost the pod its buffers for good; a page each stays warm.
void LogWriter::Thread::TrimBuffers() {
  buffers_used_ = false;
  madvise(input_, static_cast<size_t>(output_ - input_), MADV_DONTNEED);
  const size_t output = memory_size_ - static_cast<size_t>(output_ - input_);
  madvise(output_ + kPage, output - kPage, MADV_DONTNEED);
}

bool LogWriter::Thread::RunCommands() {
  uint64_t count;
  [[maybe_unused]] const ssize_t n = read(shared_->wake.get(), &count, sizeof count);
  Command* command;
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    command = std::exchange(shared_->submitted, nullptr);
  }
  Command* in_order = nullptr;
  while (command != nullptr) {
    Command* next = std::exchange(command->next, in_order);
    in_order = std::exchange(command, next);
  }
  bool go_on = true;
  Command* suspend = nullptr;
  while (in_order != nullptr) {
    Command* current = std::exchange(in_order, in_order->next);
    ContainerLog* log = current->log;
    switch (current->kind) {
      case Command::kOpen:
        Complete(current, OpenLog(log));
        break;
      case Command::kReopen:
        Complete(current, ReopenLog(log));
        break;
      case Command::kFinish:
        if (log->finish_command != nullptr) Complete(log->finish_command, ECANCELED);
        log->finishing = true;
        log->finish_deadline = current->deadline;
        log->finish_command = current;
        if (log->blocked()) Resume(log);
        for (LogStream& stream : log->streams) {
          if (!stream.ended() && !log->blocked()) Serve(&stream);
        }
        CheckFinished(log, NowMs());
        break;
      case Command::kClose:
        CloseLog(log);
        Complete(current, 0);
        break;
      case Command::kSuspend:
        suspend = current;
        break;
      case Command::kAdopt:
        AdoptLog(log);
        Complete(current, 0);
        break;
      case Command::kStop:
        while (logs_ != nullptr) CloseLog(logs_);
        go_on = false;
        Complete(current, 0);
        break;
    }
  }
  if (suspend != nullptr) Rest(suspend);
  return go_on;
}

void LogWriter::Thread::Rest(Command* suspend) {
  const int64_t resumes = suspend->deadline;
  Complete(suspend, 0);
  std::unique_lock<std::mutex> lock(shared_->mutex);
  while (shared_->resumes == resumes) shared_->resumed.wait(lock);
}

void LogWriter::Thread::AdoptLog(ContainerLog* log) {
  log->next = std::exchange(logs_, log);
  for (LogStream& stream : log->streams) {
    if (stream.ended()) continue;
    if (WatchStream(&stream) != 0) DropStream(&stream);
    if (log->blocked()) PauseStream(&stream);
  }
}

void LogWriter::Thread::Complete(Command* command, int error) {
  command->error = error;
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    command->next = std::exchange(shared_->completed, command);
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(shared_->completed_event, &one, sizeof one);
}

int LogWriter::Thread::OpenLog(ContainerLog* log) {
  log->next = std::exchange(logs_, log);
  const int error = OpenFileAndStreams(log);
  if (error != 0) {
    for (LogStream& stream : log->streams) DropStream(&stream);
    log->file.reset();
  }
  return error;
}

int LogWriter::Thread::OpenFileAndStreams(ContainerLog* log) {
  if (!log->ok()) return ENOMEM;
  if (!log->path.empty()) {
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

int LogWriter::Thread::ReopenLog(ContainerLog* log) {
  if (log->path.empty()) return 0;
  if (log->blocked()) Resume(log);
  sys::UniqueFd file;
  // The directory is not made here: if it is gone, the rotation failed.
  if (const int error = OpenFile(log->path, &file); error != 0) return error;
  if (log->blocked() && log->write_at > log->line_start) {
    // The old file ends in the middle of an entry: that entry moves to the new one as a whole.
    struct stat st;
    const auto torn = static_cast<off_t>(log->write_at - log->line_start);
    if (fstat(log->file.get(), &st) == 0 && st.st_size >= torn) {
      [[maybe_unused]] const int result = ftruncate(log->file.get(), st.st_size - torn);
    }
    log->write_at = log->line_start;
  }
  log->file = std::move(file);
  if (log->blocked()) Resume(log);
  return 0;
}

void LogWriter::Thread::CloseLog(ContainerLog* log) {
  log->finishing = true;
  if (log->blocked()) Resume(log);
  for (LogStream& stream : log->streams) {
    if (!stream.ended() && !log->blocked()) Serve(&stream);
    EndStream(&stream);
  }
  log->file.reset();
  if (log->finish_command != nullptr) {
    Complete(std::exchange(log->finish_command, nullptr), ECANCELED);
  }
  for (ContainerLog** link = &logs_; *link != nullptr; link = &(*link)->next) {
    if (*link == log) {
      *link = log->next;
      break;
    }
  }
}

int LogWriter::Thread::WatchStream(LogStream* stream) {
  epoll_event event{.events = EPOLLIN, .data = {.ptr = stream}};
  const int op = stream->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
  if (epoll_ctl(epoll_.get(), op, stream->fd.get(), &event) != 0) return errno;
  stream->watched = true;
  stream->paused = false;
  return 0;
}

// Edge-triggered: a hang-up, which cannot be masked, is then told once instead of for ever.
void LogWriter::Thread::PauseStream(LogStream* stream) {
  epoll_event event{.events = EPOLLIN | EPOLLET, .data = {.ptr = stream}};
  if (stream->watched) epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, stream->fd.get(), &event);
  stream->paused = true;
}

void LogWriter::Thread::DropStream(LogStream* stream) {
  if (!stream->ended() && stream->watched) {
    // Closing alone would not do: the descriptor may be shared with another process.
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, stream->fd.get(), nullptr);
  }
  stream->watched = false;
  stream->fd.reset();
}

void LogWriter::Thread::EndStream(LogStream* stream) {
  DropStream(stream);
  if (stream->kept_size > 0 && !stream->log->blocked()) {
    const size_t size = std::exchange(stream->kept_size, 0);
    memcpy(input_, stream->kept, size);
    Take(stream, input_, size, true);
  }
}

void LogWriter::Thread::Serve(LogStream* stream) {
  ContainerLog* log = stream->log;
  char* const at = input_ + KeptLineSize(max_line_);
  for (int i = 0; i < kFairShare && !log->blocked(); ++i) {
    const ssize_t n = read(stream->fd.get(), at, kLogReadSize);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0 && errno == EIO && log->tty && !log->finishing) {
      // Nobody has the terminal open at the moment; somebody may open it again.
      PauseStream(stream);
      return;
    }
    if (n <= 0) return EndStream(stream);
    if (stream->paused) WatchStream(stream);
    const auto size = static_cast<size_t>(n);
    if (size > kPage) {
      buffers_used_ = true;
      last_used_ = NowMs();
    }
    const size_t kept = std::exchange(stream->kept_size, 0);
    memcpy(at - kept, stream->kept, kept);
    Take(stream, at - kept, kept + size, false);
    // Most likely empty now; if not, the next event comes at once.
    if (size < kPage && !log->finishing) return;
  }
}

void LogWriter::Thread::Take(LogStream* stream, char* data, size_t size, bool end) {
  ContainerLog* log = stream->log;
  if (log->path.empty()) return;  // no log is wanted
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  char stamp[kLogStampSize];
  clock_.Format(now.tv_sec, static_cast<int32_t>(now.tv_nsec), stamp);
  const LogPrefix prefix = MakeLogPrefix(stamp, stream->is_stderr);
  const size_t capacity = kLogOutputSize + kLogPrefixSize + max_line_ + 1;
  while (size > 0 && !log->blocked()) {
    const LogFormatResult result =
        FormatLog(absl::string_view(data, size), end, prefix, max_line_, output_, capacity);
    if (result.consumed == 0) break;
    data += result.consumed;
    size -= result.consumed;
    Write(log, output_, result.produced);
  }
  memcpy(stream->kept, data, size);
  stream->kept_size = size;
  if (log->blocked()) {
    for (LogStream& each : log->streams) {
      if (!each.ended()) PauseStream(&each);
    }
  }
}

void LogWriter::Thread::Write(ContainerLog* log, const char* data, size_t size) {
  size_t at = 0;
  while (at < size) {
    const ssize_t n = write(log->file.get(), data + at, size - at);
    if (n > 0) {
      at += static_cast<size_t>(n);
      continue;
    }
    if (n < 0 && errno == EINTR) continue;
    log->write_error = n < 0 ? errno : EIO;
    log->retry_at = NowMs() + kRetryMs;
    // Keep from the start of the entry that was cut, so that a new file can have it whole.
    size_t line = at;
    while (line > 0 && data[line - 1] != '\n') --line;
    log->line_start = 0;
    log->write_at = at - line;
    log->unwritten_size = size - line;
    memcpy(log->unwritten, data + line, size - line);
    return;
  }
}

void LogWriter::Thread::Resume(ContainerLog* log) {
  while (log->write_at < log->unwritten_size) {
    const ssize_t n =
        write(log->file.get(), log->unwritten + log->write_at, log->unwritten_size - log->write_at);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      log->write_error = n < 0 ? errno : EIO;
      return;
    }
    log->write_at += static_cast<size_t>(n);
    for (size_t i = log->write_at; i > log->line_start; --i) {
      if (log->unwritten[i - 1] == '\n') log->line_start = i;
    }
  }
  madvise(log->unwritten, RoundToPage(log->unwritten_size), MADV_DONTNEED);
  log->line_start = log->write_at = log->unwritten_size = 0;
  log->write_error = 0;
  for (LogStream& stream : log->streams) {
    // What was read before the file was full comes first.
    if (stream.kept_size > 0 && !log->blocked()) {
      const size_t size = std::exchange(stream.kept_size, 0);
      memcpy(input_, stream.kept, size);
      buffers_used_ = true;
      Take(&stream, input_, size, stream.ended());
    }
    if (!stream.ended() && !log->blocked()) WatchStream(&stream);
  }
}

void LogWriter::Thread::CheckFinished(ContainerLog* log, int64_t now) {
  const bool late = now >= log->finish_deadline;
  bool timed_out = false;
  if (late && !log->blocked()) {
    for (LogStream& stream : log->streams) {
      if (stream.ended()) continue;
      timed_out = true;
      EndStream(&stream);
    }
  }
  const bool complete = log->streams_ended() && !log->blocked();
  if (!complete && !late) return;
  if (log->finish_command != nullptr) {
    const int error = log->blocked() ? log->write_error : timed_out ? ETIMEDOUT : 0;
    Complete(std::exchange(log->finish_command, nullptr), error);
  }
  if (complete) {
    log->finishing = false;
    log->file.reset();
  }
}

}  // namespace davit::sandbox
