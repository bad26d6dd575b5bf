#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <thread>

#include "benchmark/benchmark.h"
#include "runtime/sys/file.h"
#include "sandbox/supervisor/log_format.h"
#include "sandbox/supervisor/log_writer.h"

namespace davit::sandbox {
namespace {

constexpr int kLines = 2'000'000;
constexpr char kLine[] = "the quick brown fox jumps over the lazy dog 123\n";  // 48 bytes

std::string Block() {
  std::string block;
  while (block.size() + sizeof kLine - 1 <= 64 * 1024) block += kLine;
  return block;
}

void Await(LogWriter* writer, const bool& done) {
  while (!done) {
    pollfd poll_fd{writer->completion_fd(), POLLIN, 0};
    poll(&poll_fd, 1, -1);
    writer->RunCompletions();
  }
}

// An application that prints two million short lines (96 MB) as fast as the pipe takes them.
void BM_TwoMillionLines(benchmark::State& state) {
  char dir[] = "/tmp/davit-log-bench-XXXXXX";
  if (mkdtemp(dir) == nullptr) return state.SkipWithError("mkdtemp");
  const std::string path = std::string(dir) + "/0.log";
  const std::string block = Block();
  for (auto _ : state) {
    auto writer = *LogWriter::Start({.max_line = 16384});
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) return state.SkipWithError("pipe2");
    LogWriter::Streams streams;
    streams.out.reset(fds[0]);
    bool done = false;
    ContainerLog* log = writer->Open(path, std::move(streams), [&](int) { done = true; });
    Await(writer.get(), done);
    std::thread application([&, fd = fds[1]] {
      for (size_t left = size_t{kLines} * (sizeof kLine - 1); left > 0;) {
        const ssize_t n = write(fd, block.data(), std::min(left, block.size()));
        if (n > 0) left -= static_cast<size_t>(n);
      }
      close(fd);
    });
    application.join();
    done = false;
    writer->Finish(log, absl::Minutes(1), [&](int) { done = true; });
    Await(writer.get(), done);
    state.PauseTiming();
    writer.reset();
    unlink(path.c_str());
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * int64_t{kLines} * int64_t{sizeof kLine - 1});
  rmdir(dir);
}
BENCHMARK(BM_TwoMillionLines)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MeasureProcessCPUTime();

void BM_Format64KiB(benchmark::State& state) {
  const std::string block = Block();
  std::string out(256 * 1024, '\0');
  char stamp[kLogStampSize];
  LogClock().Format(1475713029, 669794202, stamp);
  const LogPrefix prefix = MakeLogPrefix(stamp, false);
  for (auto _ : state) {
    benchmark::DoNotOptimize(FormatLog(block, false, prefix, 16384, out.data(), out.size()));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(block.size()));
}
BENCHMARK(BM_Format64KiB);

}  // namespace
}  // namespace davit::sandbox
