// LogWriter's streams: from the pipe to entries.

#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "sandbox/supervisor/log_thread.h"

namespace davit::sandbox {
namespace {

// Reads of one stream before the others get their turn.
constexpr int kFairShare = 16;
constexpr size_t kPage = 4096;
// An entry that tells how much was dropped.
constexpr size_t kMaxNotice = 256;

}  // namespace

int64_t LogNowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
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

void LogWriter::Thread::EndStream(Worker* worker, LogStream* stream) {
  DropStream(stream);
  TakeKept(worker, stream);
}

void LogWriter::Thread::TakeKept(Worker* worker, LogStream* stream) {
  if (stream->kept_size == 0 && stream->dropped_bytes == 0) return;
  const size_t size = std::exchange(stream->kept_size, 0);
  memcpy(worker->input, stream->kept, size);
  if (size > kPage) {
    buffers_used_ = true;
    last_used_ = LogNowMs();
  }
  Take(worker, stream, worker->input, size, stream->ended());
}

void LogWriter::Thread::Serve(Worker* worker, LogStream* stream) {
  ContainerLog* const log = stream->log;
  char* const at = worker->input + KeptLineSize(options_.max_line);
  for (int i = 0; i < kFairShare; ++i) {
    if (log->catch_up || stream->kept_size > KeptLineSize(options_.max_line)) return;
    if (!options_.drop_when_full && Full(log)) return PauseStream(stream);
    const ssize_t n = read(stream->fd.get(), at, kLogReadSize);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n < 0 && errno == EIO && log->tty && !log->finishing) {
      // Nobody has the terminal open at the moment; somebody may open it again.
      return PauseStream(stream);
    }
    if (n <= 0) return EndStream(worker, stream);
    if (stream->paused) WatchStream(stream);
    const auto size = static_cast<size_t>(n);
    if (size > kPage) {
      buffers_used_ = true;
      last_used_ = LogNowMs();
    }
    const size_t kept = std::exchange(stream->kept_size, 0);
    memcpy(at - kept, stream->kept, kept);
    Take(worker, stream, at - kept, kept + size, false);
    if (!Leads(worker)) return;
    // Most likely empty now; if not, the next event comes at once.
    if (size < kPage && !log->finishing) return;
  }
}

size_t LogWriter::Thread::Room(const ContainerLog* log) const {
  const size_t used = log->unwritten_size - log->line_start;
  const size_t capacity = options_.buffer_size + LogChunkSize(options_.max_line);
  if (used >= options_.buffer_size) return 0;
  return std::min(options_.buffer_size - used, capacity - log->unwritten_size - log->in_flight);
}

bool LogWriter::Thread::Full(const ContainerLog* log) const {
  return log->behind() && Room(log) < kLogPrefixSize + options_.max_line + 1 + kMaxNotice;
}

void LogWriter::Thread::Take(Worker* worker, LogStream* stream, char* data, size_t size, bool end) {
  ContainerLog* const log = stream->log;
  if (log->path.empty()) return;  // no log is wanted
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  char stamp[kLogStampSize];
  clock_.Format(now.tv_sec, static_cast<int32_t>(now.tv_nsec), stamp);
  const LogPrefix prefix = MakeLogPrefix(stamp, stream->is_stderr);
  for (;;) {
    const size_t skipped = SkipDroppedLine(stream, data, size);
    data += skipped;
    size -= skipped;
    if (Full(log)) {
      if (options_.drop_when_full) {
        const size_t dropped = Drop(stream, data, size, end);
        data += dropped;
        size -= dropped;
      }
      break;
    }
    AppendNotice(stream);
    if (size == 0) break;
    const bool behind = log->behind();
    char* const out = behind ? log->unwritten + log->unwritten_size : worker->output;
    const size_t capacity = behind ? Room(log) : LogChunkSize(options_.max_line);
    const LogFormatResult result =
        FormatLog(absl::string_view(data, size), end, prefix, options_.max_line, out, capacity);
    if (result.consumed == 0) break;
    data += result.consumed;
    size -= result.consumed;
    if (behind) {
      log->unwritten_size += result.produced;
      continue;
    }
    worker->in_hand_stream = stream;
    worker->in_hand = data;
    worker->in_hand_size = size;
    if (!Write(worker, log, worker->output, result.produced)) return;  // the new leader goes on
    worker->in_hand_stream = nullptr;
  }
  memcpy(stream->kept, data, size);
  stream->kept_size = size;
  if (!options_.drop_when_full && Full(log)) {
    for (LogStream& each : log->streams) {
      if (!each.ended()) PauseStream(&each);
    }
  }
}

// ---- dropping

size_t LogWriter::Thread::SkipDroppedLine(LogStream* stream, const char* data, size_t size) {
  if (!stream->dropping_line || size == 0) return 0;
  const auto* end = static_cast<const char*>(memchr(data, '\n', size));
  const size_t skipped = end == nullptr ? size : static_cast<size_t>(end - data) + 1;
  stream->dropped_bytes += skipped;
  stream->log->dropped_bytes += skipped;
  stream->dropping_line = end == nullptr;
  return skipped;
}

size_t LogWriter::Thread::Drop(LogStream* stream, const char* data, size_t size, bool end) {
  if (size == 0) return 0;
  const auto* last = static_cast<const char*>(memrchr(data, '\n', size));
  size_t dropped = last == nullptr ? 0 : static_cast<size_t>(last - data) + 1;
  auto lines = static_cast<uint64_t>(std::count(data, data + dropped, '\n'));
  // A line that would not fit an entry goes with all that is still to come of it.
  if (size - dropped > options_.max_line || (end && size > dropped)) {
    dropped = size;
    ++lines;
    stream->dropping_line = !end;
  }
  if (dropped == 0) return 0;
  ContainerLog* const log = stream->log;
  const bool first = stream->dropped_bytes == 0;
  stream->dropped_lines += lines;
  stream->dropped_bytes += dropped;
  log->dropped_lines += lines;
  log->dropped_bytes += dropped;
  const int64_t now = LogNowMs();
  if (first || now - log->told_at >= 1000) {
    log->told_at = now;
    Changed(log);
  }
  return dropped;
}

void LogWriter::Thread::AppendNotice(LogStream* stream) {
  if (stream->dropped_bytes == 0 || (stream->dropping_line && !stream->ended())) return;
  ContainerLog* const log = stream->log;
  char text[kMaxNotice - kLogPrefixSize];
  const int length = snprintf(text, sizeof text,
                              "[davit: %llu lines (%llu bytes) are missing here: the disk of this "
                              "log was full or did not answer]\n",
                              static_cast<unsigned long long>(stream->dropped_lines),
                              static_cast<unsigned long long>(stream->dropped_bytes));
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  char stamp[kLogStampSize];
  clock_.Format(now.tv_sec, static_cast<int32_t>(now.tv_nsec), stamp);
  const LogFormatResult result =
      FormatLog(absl::string_view(text, static_cast<size_t>(length)), false,
                MakeLogPrefix(stamp, stream->is_stderr), options_.max_line,
                log->unwritten + log->unwritten_size,
                options_.buffer_size + LogChunkSize(options_.max_line) - log->unwritten_size);
  log->unwritten_size += result.produced;
  stream->dropped_lines = stream->dropped_bytes = 0;
  Changed(log);  // what Drop has not told since
}

}  // namespace davit::sandbox
