#include "sandbox/supervisor/log_thread.h"

#include <limits.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace davit::sandbox {
namespace {

constexpr int kBatch = 16;
constexpr int64_t kTrimMs = 2000;
constexpr size_t kPage = 4096;

size_t RoundToPage(size_t size) { return (size + kPage - 1) & ~(kPage - 1); }

char* MapPages(size_t size) {
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<char*>(memory);
}

}  // namespace

size_t KeptLineSize(size_t max_line) { return RoundToPage(max_line + 1); }

size_t LogChunkSize(size_t max_line) { return kLogOutputSize + kLogPrefixSize + max_line + 1; }

ContainerLog::ContainerLog(std::string log_path, size_t max_line, size_t buffer_size)
    : path(std::move(log_path)),
      kept_capacity(KeptLineSize(max_line) + kLogReadSize),
      unwritten_capacity(RoundToPage(buffer_size + LogChunkSize(max_line))) {
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

LogWriter::Worker::~Worker() {
  if (memory_ != nullptr) munmap(memory_, memory_size_);
}

int LogWriter::Worker::Prepare(size_t max_line) {
  const size_t input_size = KeptLineSize(max_line) + kLogReadSize;
  memory_size_ = input_size + RoundToPage(LogChunkSize(max_line));
  char* memory = MapPages(memory_size_);
  if (memory == nullptr) return ENOMEM;
  memory_ = memory;
  input = memory;
  output = memory + input_size;
  return 0;
}

int LogWriter::Thread::Prepare() {
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.ok()) return errno;
  epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
  if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, shared_->wake.get(), &event) != 0) return errno;
  return 0;
}

// ---- who leads

bool LogWriter::Thread::LeaderIsStuck() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (leader_->working_on == nullptr) return false;
  if (const int64_t left = StuckIn(); left > 0) {
    SetTimer(left);
    return false;
  }
  return true;
}

bool LogWriter::Thread::Replace(Worker* worker) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (leader_->working_on == nullptr || StuckIn() > 0) return false;
  Worker* const stuck = std::exchange(leader_, worker);
  ContainerLog* const log = stuck->working_on;
  log->stalled = true;
  if (LogStream* stream = std::exchange(stuck->in_hand_stream, nullptr); stream != nullptr) {
    // Copied while its buffer cannot change: it is in a system call.
    std::copy_n(stuck->in_hand, stuck->in_hand_size, stream->kept);
    stream->kept_size = stuck->in_hand_size;
  }
  log->catch_up = true;
  Changed(log);
  // Events that the other one has fetched and will not act on: edges have to be told again.
  for (ContainerLog* each = logs_; each != nullptr; each = each->next) {
    for (LogStream& stream : each->streams) {
      if (!stream.ended() && stream.paused) PauseStream(&stream);
    }
  }
  return true;
}

bool LogWriter::Thread::Ended(const Worker* worker) {
  std::lock_guard<std::mutex> lock(mutex_);
  return worker->ended;
}

void LogWriter::Thread::Run(Worker* worker) {
  mutex_.lock();
  while (Leads(worker)) {
    const int timeout = NextTimeout(LogNowMs());
    mutex_.unlock();
    epoll_event events[kBatch];
    const int count = epoll_wait(epoll_.get(), events, kBatch, timeout);
    mutex_.lock();
    bool wake = false;
    for (int i = 0; i < count && Leads(worker); ++i) {
      auto* stream = static_cast<LogStream*>(events[i].data.ptr);
      if (stream == nullptr) {
        wake = true;
      } else if (!stream->ended()) {
        Serve(worker, stream);
      }
    }
    // After the streams: a command may free what an event of this batch points to.
    if (wake && Leads(worker)) FetchCommands();
    if (Leads(worker)) RunCommands(worker);
    if (Leads(worker)) Housekeep(worker);
    if (Leads(worker) && suspend_ != nullptr) RestIfWanted();
    if (stopping_ && logs_ == nullptr) break;
  }
  worker->ended = true;
  mutex_.unlock();
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(shared_->completed_event, &one, sizeof one);
}

int LogWriter::Thread::NextTimeout(int64_t now) const {
  int64_t timeout = -1;
  const auto wait_for = [&](int64_t ms) {
    ms = std::max<int64_t>(ms, 0);
    if (timeout < 0 || ms < timeout) timeout = ms;
  };
  for (const ContainerLog* log = logs_; log != nullptr; log = log->next) {
    if (log->unwritten_size != 0 && !log->busy) wait_for(log->retry_at - now);
    if (log->finish_command != nullptr) wait_for(log->finish_deadline - now);
    if (!log->busy && log->deferred != nullptr) wait_for(0);
    if (log->catch_up) wait_for(0);
  }
  if (commands_ != nullptr) wait_for(0);
  if (buffers_used_) wait_for(last_used_ + kTrimMs - now);
  return static_cast<int>(std::min<int64_t>(timeout, INT_MAX));
}

void LogWriter::Thread::Housekeep(Worker* worker) {
  const int64_t now = LogNowMs();
  for (ContainerLog* log = logs_; log != nullptr;) {
    ContainerLog* const next = log->next;
    if (log->catch_up) {
      log->catch_up = false;
      for (LogStream& stream : log->streams) {
        if (Leads(worker)) TakeKept(worker, &stream);
      }
      if (!Leads(worker)) return;
    }
    if (!log->busy && log->deferred != nullptr) {
      // At the head of the queue, in their order.
      Command* last = log->deferred;
      while (last->next != nullptr) last = last->next;
      last->next = std::exchange(commands_, std::exchange(log->deferred, nullptr));
    }
    if (!log->busy && log->unwritten_size != 0 && now >= log->retry_at) Resume(worker, log);
    if (!Leads(worker)) return;
    if (log->finishing) CheckFinished(worker, log, now);
    if (!Leads(worker)) return;
    if (stopping_ && !log->busy) CloseLog(worker, log);
    if (!Leads(worker)) return;
    log = next;
  }
  if (buffers_used_ && now - last_used_ >= kTrimMs) TrimBuffers(worker);
}

// A burst must not cost the pod its buffers for good; a page each stays warm.
void LogWriter::Thread::TrimBuffers(Worker* worker) {
  buffers_used_ = false;
  madvise(worker->input, static_cast<size_t>(worker->output - worker->input), MADV_DONTNEED);
  const size_t output = RoundToPage(LogChunkSize(options_.max_line));
  madvise(worker->output + kPage, output - kPage, MADV_DONTNEED);
}

// ---- commands

void LogWriter::Thread::FetchCommands() {
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
  Command** end = &commands_;
  while (*end != nullptr) end = &(*end)->next;
  *end = in_order;
}

void LogWriter::Thread::RunCommands(Worker* worker) {
  while (commands_ != nullptr && Leads(worker)) {
    Command* const command = std::exchange(commands_, commands_->next);
    command->next = nullptr;
    const ContainerLog* log = command->log;
    // In their order: one waits for those before it. An end has a deadline, and waits for nobody.
    if (log != nullptr && (log->busy || log->deferred != nullptr) &&
        command->kind != Command::kFinish) {
      Defer(command);
    } else if (!RunCommand(worker, command)) {
      Defer(command);
    }
  }
}

void LogWriter::Thread::Defer(Command* command) {
  Command** end = &command->log->deferred;
  while (*end != nullptr) end = &(*end)->next;
  *end = command;
}

bool LogWriter::Thread::RunCommand(Worker* worker, Command* command) {
  switch (command->kind) {
    case Command::kOpen:
      Complete(command, OpenLog(worker, command->log));
      return true;
    case Command::kReopen:
      Complete(command, ReopenLog(worker, command->log));
      return true;
    case Command::kFinish:
      FinishLog(worker, command);
      return true;
    case Command::kClose:
      if (!CloseLog(worker, command->log)) return false;
      Complete(command, 0);
      return true;
    case Command::kSuspend:
      // An earlier one that is still here is void.
      if (suspend_ != nullptr) Complete(suspend_, 0);
      suspend_ = command;
      return true;
    case Command::kAdopt:
      AdoptLog(command->log);
      Complete(command, 0);
      return true;
    case Command::kStop:
      stopping_ = true;
      Complete(command, 0);
      return true;
  }
  return true;
}

void LogWriter::Thread::RestIfWanted() {
  const int64_t resumes = suspend_->deadline;
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    if (shared_->resumes == resumes) {
      // Whoever is still on a file comes back, or the owner gives up.
      for (const ContainerLog* log = logs_; log != nullptr; log = log->next) {
        if (log->busy || log->deferred != nullptr) return;
      }
      if (commands_ != nullptr) return;
    }
  }
  Complete(std::exchange(suspend_, nullptr), 0);
  mutex_.unlock();
  {
    std::unique_lock<std::mutex> lock(shared_->mutex);
    while (shared_->resumes == resumes) shared_->resumed.wait(lock);
  }
  mutex_.lock();
}

void LogWriter::Thread::AdoptLog(ContainerLog* log) {
  log->next = std::exchange(logs_, log);
  for (LogStream& stream : log->streams) {
    if (!stream.ended() && WatchStream(&stream) != 0) DropStream(&stream);
  }
  log->catch_up = true;
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

void LogWriter::Thread::FinishLog(Worker* worker, Command* command) {
  ContainerLog* const log = command->log;
  if (log->finish_command != nullptr) Complete(log->finish_command, ECANCELED);
  log->finishing = true;
  log->finish_deadline = command->deadline;
  log->finish_command = command;
  if (log->unwritten_size != 0 && !log->busy) Resume(worker, log);
  for (LogStream& stream : log->streams) {
    if (Leads(worker) && stream.watched) Serve(worker, &stream);
  }
  if (Leads(worker)) CheckFinished(worker, log, LogNowMs());
}

void LogWriter::Thread::CheckFinished(Worker* worker, ContainerLog* log, int64_t now) {
  const bool late = now >= log->finish_deadline;
  bool timed_out = false;
  if (late && !log->behind()) {
    for (LogStream& stream : log->streams) {
      // What the pipe held while the log could not be written is not late, whoever holds it open.
      if (!stream.ended()) Serve(worker, &stream);
      if (!Leads(worker)) return;
      if (stream.ended() || log->behind()) continue;
      timed_out = true;
      EndStream(worker, &stream);
      if (!Leads(worker)) return;
    }
  }
  const bool complete = log->streams_ended() && !log->behind() && log->streams[0].kept_size == 0 &&
                        log->streams[1].kept_size == 0;
  if (!complete && !late) return;
  if (log->finish_command != nullptr) {
    const int error = log->busy                  ? ETIMEDOUT
                      : log->unwritten_size != 0 ? log->write_error
                      : timed_out                ? ETIMEDOUT
                                                 : 0;
    Complete(std::exchange(log->finish_command, nullptr), error);
  }
  if (complete) {
    log->finishing = false;
    const LogFileWork work(this, worker, log);
    log->file.reset();
  }
}

bool LogWriter::Thread::CloseLog(Worker* worker, ContainerLog* log) {
  log->finishing = true;
  if (log->unwritten_size != 0) Resume(worker, log);
  for (LogStream& stream : log->streams) {
    if (Leads(worker) && !stream.ended()) Serve(worker, &stream);
    if (Leads(worker)) EndStream(worker, &stream);
  }
  if (Leads(worker) && log->file.ok()) {
    const LogFileWork work(this, worker, log);
    log->file.reset();
  }
  // Only a leader may take it from the list: another worker's events may point to it.
  if (!Leads(worker)) return false;
  if (log->finish_command != nullptr) {
    Complete(std::exchange(log->finish_command, nullptr), ECANCELED);
  }
  for (ContainerLog** link = &changes_; *link != nullptr; link = &(*link)->next_changed) {
    if (*link == log) {
      *link = log->next_changed;
      break;
    }
  }
  for (ContainerLog** link = &logs_; *link != nullptr; link = &(*link)->next) {
    if (*link == log) {
      *link = log->next;
      break;
    }
  }
  return true;
}

}  // namespace davit::sandbox
