#include "sandbox/supervisor/log_writer.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "runtime/sys/errno.h"
#include "sandbox/supervisor/log_thread.h"

namespace davit::sandbox {
namespace {

// Enough for the deepest call chain with its path buffer; the default of 8 MiB would only be
// address space, but one that every fork has to copy the description of.
constexpr size_t kStackSize = 64 * 1024;

int64_t MonotonicMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LogWriter>> LogWriter::Start(size_t max_line) {
  DAVIT_ASSIGN_OR_RETURN(auto writer, Create(max_line));
  DAVIT_RETURN_IF_ERROR(writer->StartThread());
  return writer;
}

absl::StatusOr<std::unique_ptr<LogWriter>> LogWriter::Create(size_t max_line) {
  std::unique_ptr<LogWriter> writer(new LogWriter);
  writer->max_line_ = std::clamp<size_t>(max_line, 256, 1024 * 1024);
  writer->completed_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  writer->shared_ = std::make_unique<Shared>();
  Shared* shared = writer->shared_.get();
  shared->wake.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!writer->completed_event_.ok() || !shared->wake.ok()) {
    return sys::ErrnoStatus(errno, "log writer: eventfd");
  }
  shared->completed_event = writer->completed_event_.get();
  writer->thread_ = std::make_unique<Thread>(shared, writer->max_line_);
  if (const int error = writer->thread_->Prepare(); error != 0) {
    return sys::ErrnoStatus(error, "log writer: set up");
  }
  return writer;
}

absl::Status LogWriter::StartThread() {
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
#ifndef DAVIT_SANITIZED  // whose frames are larger
  pthread_attr_setstacksize(&attributes, kStackSize);
#endif
  // Signals are the event loop's business.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int error = pthread_create(
      &handle_, &attributes,
      [](void* thread) -> void* {
        static_cast<Thread*>(thread)->Run();
        return nullptr;
      },
      thread_.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error != 0) return sys::ErrnoStatus(error, "log writer: start its thread");
  running_ = true;
  return absl::OkStatus();
}

LogWriter::~LogWriter() {
  if (running_) {
    Resume();
    Submit(nullptr, Command::kStop, 0, nullptr);
    pthread_join(handle_, nullptr);
  }
  for (Command* command = shared_->submitted; command != nullptr;) {
    delete std::exchange(command, command->next);
  }
  for (Command* command = shared_->completed; command != nullptr;) {
    delete std::exchange(command, command->next);
  }
  for (ContainerLog* log : logs_) delete log;
}

void LogWriter::Submit(ContainerLog* log, int kind, int64_t deadline, Done done) {
  auto* command = new Command;
  command->kind = kind;
  command->log = log;
  command->deadline = deadline;
  command->done = std::move(done);
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    command->next = std::exchange(shared_->submitted, command);
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(shared_->wake.get(), &one, sizeof one);
}

void LogWriter::RunCompletions() {
  uint64_t count;
  [[maybe_unused]] const ssize_t n = read(completed_event_.get(), &count, sizeof count);
  Command* command;
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    command = std::exchange(shared_->completed, nullptr);
  }
  Command* in_order = nullptr;
  while (command != nullptr) {
    Command* next = std::exchange(command->next, in_order);
    in_order = std::exchange(command, next);
  }
  while (in_order != nullptr) {
    const std::unique_ptr<Command> current(std::exchange(in_order, in_order->next));
    if (current->kind == Command::kClose) {
      std::erase(logs_, current->log);
      delete current->log;
    }
    if (current->done) current->done(current->error);
  }
}

ContainerLog* LogWriter::Open(const std::string& path, Streams streams, Done done) {
  auto* log = new ContainerLog(path, max_line_);
  logs_.push_back(log);
  log->tty = streams.tty;
  log->streams[0].fd = std::move(streams.out);
  log->streams[1].fd = std::move(streams.err);
  Submit(log, Command::kOpen, 0, std::move(done));
  return log;
}

void LogWriter::Reopen(ContainerLog* log, Done done) {
  Submit(log, Command::kReopen, 0, std::move(done));
}

void LogWriter::Finish(ContainerLog* log, absl::Duration timeout, Done done) {
  const int64_t wait = std::clamp<int64_t>(absl::ToInt64Milliseconds(timeout), 0, 86'400'000);
  Submit(log, Command::kFinish, MonotonicMs() + wait, std::move(done));
}

void LogWriter::Close(ContainerLog* log, Done done) {
  Submit(log, Command::kClose, 0, std::move(done));
}

}  // namespace davit::sandbox
