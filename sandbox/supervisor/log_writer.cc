#include "sandbox/supervisor/log_writer.h"

#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
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
constexpr size_t kMinBuffer = 64 * 1024;
// Buffered lines of the longest kind, so that a full buffer is not an empty one.
constexpr size_t kMinLines = 4;
constexpr time_t kStopSeconds = 1;

}  // namespace

// What a thread in a system call that does not return may still touch.
struct LogWriter::Abandoned {
  std::unique_ptr<Shared> shared;
  std::unique_ptr<Thread> thread;
  std::vector<std::unique_ptr<Worker>> workers;
  std::vector<ContainerLog*> logs;
  sys::UniqueFd completed_event;
};

LogWriter::LogWriter() = default;

absl::StatusOr<std::unique_ptr<LogWriter>> LogWriter::Start(const Options& options) {
  DAVIT_ASSIGN_OR_RETURN(auto writer, Create(options));
  DAVIT_RETURN_IF_ERROR(writer->StartThread());
  return writer;
}

absl::StatusOr<std::unique_ptr<LogWriter>> LogWriter::Create(const Options& options) {
  std::unique_ptr<LogWriter> writer(new LogWriter);
  DAVIT_RETURN_IF_ERROR(writer->Prepare(options));
  return writer;
}

absl::Status LogWriter::StartThread() {
  auto worker = std::make_unique<Worker>();
  int error = worker->Prepare(options_.max_line);
  thread_->SetLeader(worker.get());
  if (error == 0) error = RunWorker(worker.get());
  if (error != 0) return sys::ErrnoStatus(error, "log writer: start its thread");
  workers_.push_back(std::move(worker));
  return absl::OkStatus();
}

absl::Status LogWriter::Prepare(const Options& options) {
  options_ = options;
  options_.max_line = std::clamp<size_t>(options.max_line, 256, 1024 * 1024);
  options_.buffer_size =
      std::max(options.buffer_size, kMinBuffer + kMinLines * (options_.max_line + kLogPrefixSize));
  completed_event_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  shared_ = std::make_unique<Shared>();
  shared_->wake.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  shared_->timer.reset(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  events_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!completed_event_.ok() || !shared_->wake.ok() || !shared_->timer.ok() || !events_.ok()) {
    return sys::ErrnoStatus(errno, "log writer: make its descriptors");
  }
  shared_->completed_event = completed_event_.get();
  for (const int fd : {completed_event_.get(), shared_->timer.get()}) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(events_.get(), EPOLL_CTL_ADD, fd, &event) != 0) {
      return sys::ErrnoStatus(errno, "log writer: watch its descriptors");
    }
  }
  thread_ = std::make_unique<Thread>(shared_.get(), options_);
  if (const int error = thread_->Prepare(); error != 0) {
    return sys::ErrnoStatus(error, "log writer: set up");
  }
  return absl::OkStatus();
}

int LogWriter::RunWorker(Worker* worker) {
  struct Argument {
    Thread* thread;
    Worker* worker;
  };
  auto argument = std::make_unique<Argument>(Argument{thread_.get(), worker});
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
      &worker->handle, &attributes,
      [](void* raw) -> void* {
        const Argument to_run = *static_cast<Argument*>(raw);
        delete static_cast<Argument*>(raw);
        to_run.thread->Run(to_run.worker);
        return nullptr;
      },
      argument.get());
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  if (error == 0) (void)argument.release();
  return error;
}

LogWriter::~LogWriter() {
  if (!workers_.empty()) {
    Resume();
    Submit(nullptr, Command::kStop, 0, nullptr);
    if (!JoinAll()) {
      static auto* const abandoned = new std::vector<Abandoned>();
      abandoned->push_back({std::move(shared_), std::move(thread_), std::move(workers_),
                            std::move(logs_), std::move(completed_event_)});
      return;
    }
  }
  for (Command* list : {shared_->submitted, shared_->completed}) {
    while (list != nullptr) delete std::exchange(list, list->next);
  }
  for (ContainerLog* log : logs_) delete log;
}

bool LogWriter::JoinAll() {
  timespec deadline;
  clock_gettime(CLOCK_REALTIME, &deadline);
  deadline.tv_sec += kStopSeconds;
  bool all = true;
  for (auto it = workers_.begin(); it != workers_.end();) {
    if (pthread_timedjoin_np((*it)->handle, nullptr, &deadline) == 0) {
      it = workers_.erase(it);
    } else {
      all = false;
      ++it;
    }
  }
  return all;
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
  [[maybe_unused]] ssize_t n = read(completed_event_.get(), &count, sizeof count);
  n = read(shared_->timer.get(), &count, sizeof count);
  RelieveStuckLeader();
  JoinEndedWorkers();
  thread_->TakeChanges([](ContainerLog* log, const LogHealth& health) {
    if (log->on_health) log->on_health(health);
  });
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

void LogWriter::RelieveStuckLeader() {
  if (leader_to_run_ == nullptr) {
    if (!thread_->LeaderIsStuck()) return;
    auto worker = std::make_unique<Worker>();
    // Without memory or a thread now, there may be some later.
    if (worker->Prepare(options_.max_line) != 0) return thread_->CheckLater();
    if (!thread_->Replace(worker.get())) return;
    leader_to_run_ = std::move(worker);
  }
  if (RunWorker(leader_to_run_.get()) != 0) return thread_->CheckLater();
  workers_.push_back(std::move(leader_to_run_));
}

void LogWriter::JoinEndedWorkers() {
  for (auto it = workers_.begin(); it != workers_.end();) {
    if (!thread_->Ended(it->get())) {
      ++it;
      continue;
    }
    pthread_join((*it)->handle, nullptr);
    it = workers_.erase(it);
  }
}

ContainerLog* LogWriter::Open(const std::string& path, Streams streams, Done done,
                              OnHealth on_health) {
  auto* log = new ContainerLog(path, options_.max_line, options_.buffer_size);
  logs_.push_back(log);
  log->tty = streams.tty;
  log->streams[0].fd = std::move(streams.out);
  log->streams[1].fd = std::move(streams.err);
  log->on_health = std::move(on_health);
  Submit(log, Command::kOpen, 0, std::move(done));
  return log;
}

void LogWriter::Reopen(ContainerLog* log, Done done) {
  Submit(log, Command::kReopen, 0, std::move(done));
}

void LogWriter::Finish(ContainerLog* log, absl::Duration timeout, Done done) {
  const int64_t wait = std::clamp<int64_t>(absl::ToInt64Milliseconds(timeout), 0, 86'400'000);
  Submit(log, Command::kFinish, LogNowMs() + wait, std::move(done));
}

void LogWriter::Close(ContainerLog* log, Done done) {
  log->on_health = nullptr;
  Submit(log, Command::kClose, 0, std::move(done));
}

}  // namespace davit::sandbox
