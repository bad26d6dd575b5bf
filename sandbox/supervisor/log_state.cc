#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "sandbox/supervisor/log_thread.h"
#include "sandbox/supervisor/log_writer.h"

// The logs' part of what a supervisor hands to the program that takes its place.
namespace davit::sandbox {
namespace {

using upgrade::v1::LogState;

void SaveStream(const LogStream& stream, LogState::Stream* state, SavedDescriptors* descriptors) {
  state->set_fd(descriptors->Add(stream.fd));
  state->set_kept(stream.kept, stream.kept_size);
  state->set_dropped_lines(stream.dropped_lines);
  state->set_dropped_bytes(stream.dropped_bytes);
  state->set_dropping_line(stream.dropping_line);
}

absl::Status RestoreStream(const LogState::Stream& state, size_t capacity, LogStream* stream,
                           InheritedDescriptors* descriptors) {
  if (state.kept().size() > capacity) {
    return absl::InvalidArgumentError(
        absl::StrCat(state.kept().size(), " bytes of an unfinished line are too many"));
  }
  DAVIT_ASSIGN_OR_RETURN(stream->fd, descriptors->Take(state.fd()));
  memcpy(stream->kept, state.kept().data(), state.kept().size());
  stream->kept_size = state.kept().size();
  stream->dropped_lines = state.dropped_lines();
  stream->dropped_bytes = state.dropped_bytes();
  stream->dropping_line = state.dropping_line();
  return absl::OkStatus();
}

absl::Status RestoreLog(const LogState& state, ContainerLog* log,
                        InheritedDescriptors* descriptors) {
  if (!log->ok()) return absl::ResourceExhaustedError("no memory for its buffers");
  log->tty = state.tty();
  DAVIT_ASSIGN_OR_RETURN(log->file, descriptors->Take(state.file()));
  DAVIT_RETURN_IF_ERROR(
      RestoreStream(state.out(), log->kept_capacity, &log->streams[0], descriptors));
  DAVIT_RETURN_IF_ERROR(
      RestoreStream(state.err(), log->kept_capacity, &log->streams[1], descriptors));
  const size_t size = state.unwritten().size();
  if (size > log->unwritten_capacity || state.line_start() > state.write_at() ||
      state.write_at() > size) {
    return absl::InvalidArgumentError("its unwritten entries make no sense");
  }
  memcpy(log->unwritten, state.unwritten().data(), size);
  log->unwritten_size = size;
  log->line_start = state.line_start();
  log->write_at = state.write_at();
  log->write_error = state.write_error();  // and retry_at is 0: at once
  log->finishing = state.finishing();
  log->finish_deadline = state.finish_deadline();
  log->dropped_lines = state.dropped_lines();
  log->dropped_bytes = state.dropped_bytes();
  return absl::OkStatus();
}

}  // namespace

void LogWriter::Suspend(Done done) {
  int64_t resumes;
  {
    std::lock_guard<std::mutex> lock(shared_->mutex);
    resumes = shared_->resumes;
  }
  Submit(nullptr, Command::kSuspend, resumes, [this, resumes, done = std::move(done)](int error) {
    {
      std::lock_guard<std::mutex> lock(shared_->mutex);
      at_rest_ = shared_->resumes == resumes;
    }
    done(error);
  });
}

void LogWriter::Resume() {
  std::lock_guard<std::mutex> lock(shared_->mutex);
  at_rest_ = false;
  ++shared_->resumes;
  shared_->resumed.notify_all();
  // One that could not come to rest yet need not try any more.
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(shared_->wake.get(), &one, sizeof one);
}

bool LogWriter::AtRest() const {
  std::lock_guard<std::mutex> lock(shared_->mutex);
  return at_rest_ && shared_->submitted == nullptr && shared_->completed == nullptr;
}

LogState LogWriter::Save(const ContainerLog& log, SavedDescriptors* descriptors) const {
  LogState state;
  state.set_path(log.path);
  state.set_tty(log.tty);
  state.set_file(descriptors->Add(log.file));
  SaveStream(log.streams[0], state.mutable_out(), descriptors);
  SaveStream(log.streams[1], state.mutable_err(), descriptors);
  state.set_unwritten(log.unwritten, log.unwritten_size);
  state.set_line_start(static_cast<uint32_t>(log.line_start));
  state.set_write_at(static_cast<uint32_t>(log.write_at));
  state.set_write_error(log.write_error);
  state.set_finishing(log.finishing);
  state.set_finish_deadline(log.finish_deadline);
  state.set_dropped_lines(log.dropped_lines);
  state.set_dropped_bytes(log.dropped_bytes);
  return state;
}

absl::StatusOr<ContainerLog*> LogWriter::Restore(const LogState& state,
                                                 InheritedDescriptors* descriptors,
                                                 OnHealth on_health) {
  auto log = std::make_unique<ContainerLog>(state.path(), options_.max_line, options_.buffer_size);
  log->on_health = std::move(on_health);
  const absl::Status restored = RestoreLog(state, log.get(), descriptors);
  if (!restored.ok()) return sys::Annotate(restored, absl::StrCat("log ", state.path()));
  logs_.push_back(log.get());
  Submit(log.get(), Command::kAdopt, 0, nullptr);
  return log.release();
}

}  // namespace davit::sandbox
