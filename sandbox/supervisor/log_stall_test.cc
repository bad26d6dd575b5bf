#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <thread>

#include "absl/time/clock.h"
#include "sandbox/supervisor/log_writer_fixture.h"

namespace davit::sandbox {
namespace {

constexpr char kNotice[] = "[davit: %llu lines (%llu bytes) are missing here";

// Numbered lines, and the notices between them, of which none may be torn and none be missing.
struct Numbered {
  uint64_t lines = 0;
  uint64_t missing = 0;
  uint64_t missing_bytes = 0;
  int notices = 0;
};
void Count(const std::vector<std::string>& entries, Numbered* count) {
  for (const std::string& entry : entries) {
    unsigned long long lines, bytes;
    if (sscanf(entry.c_str() + strlen("stdout F "), kNotice, &lines, &bytes) == 2) {
      count->missing += lines;
      count->missing_bytes += bytes;
      ++count->notices;
      continue;
    }
    ASSERT_EQ(entry, absl::StrCat("stdout F line ", count->lines + count->missing));
    ++count->lines;
  }
}

// Prints `lines` numbered lines from `first` on, and takes as long as the pipe does.
void Print(const sys::UniqueFd& fd, int first, int lines) {
  std::string block;
  for (int i = first; i < first + lines; ++i) {
    absl::StrAppend(&block, "line ", i, "\n");
    if (block.size() < 8000 && i + 1 < first + lines) continue;
    ASSERT_TRUE(sys::WriteAll(fd.get(), block, "pipe").ok());
    block.clear();
  }
}

class LogStallTest : public StalledDiskTest {
 protected:
  ContainerLog* OpenOnDisk(const std::string& name, Writers* writers) {
    return Open(mount_ + "/" + name, writers, 0, [this](const LogHealth& h) { health_ = h; });
  }
  void AwaitError(int error) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (health_.error != error) {
      ASSERT_LT(absl::Now(), deadline) << "the log's health is " << health_.error;
      pollfd poll_fd{writer_->completion_fd(), POLLIN, 0};
      poll(&poll_fd, 1, 1000);
      writer_->RunCompletions();
    }
  }
  // Serves completions beside `work`, as the event loop does.
  template <typename Work>
  void Beside(const Work& work) {
    std::atomic<bool> done = false;
    std::thread thread([&] {
      work();
      done = true;
    });
    while (!done) {
      pollfd poll_fd{writer_->completion_fd(), POLLIN, 0};
      poll(&poll_fd, 1, 10);
      writer_->RunCompletions();
    }
    thread.join();
  }
  LogHealth health_;
};

TEST_F(LogStallTest, ADiskThatHangsHoldsUpNoLogOnAnother) {
  Writers stuck, fine;
  ContainerLog* stuck_log = OpenOnDisk("0.log", &stuck);
  Freeze();
  Put(stuck.out, "line 0\n");
  AwaitError(ETIMEDOUT);
  ContainerLog* log = Open(path_, &fine);
  Put(fine.out, "here\n");
  fine = {};
  EXPECT_EQ(Finish(log), 0);
  EXPECT_EQ(Log(), Lines{"stdout F here"});
  // Not even an end is waited for longer than was asked.
  Put(stuck.out, "line 1\n");
  stuck = {};
  EXPECT_EQ(Finish(stuck_log, absl::Milliseconds(50)), ETIMEDOUT);
  Thaw();
  EXPECT_EQ(Finish(stuck_log), 0);
  EXPECT_EQ(health_.error, 0);
  EXPECT_EQ(Entries(Read(file_)), (Lines{"stdout F line 0", "stdout F line 1"}));
}

TEST_F(LogStallTest, WhatIsPrintedDuringAStallIsBufferedThenBlocksAndIsAllThereAfterwards) {
  StartWriter({.buffer_size = 256 * 1024});
  Writers writers;
  ContainerLog* log = OpenOnDisk("0.log", &writers);
  Print(writers.out, 0, 1000);
  Freeze();
  int lines = 0;
  Beside([&] { lines = 1000 + Fill(writers.out, 1000); });
  // More than the pipe alone holds, and not without end.
  EXPECT_GT(lines, 1000 + 8000);
  EXPECT_LT(lines, 200000);
  Thaw();
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  Numbered count;
  Count(Entries(Read(file_)), &count);
  EXPECT_EQ(count.lines, static_cast<uint64_t>(lines));
  EXPECT_EQ(count.missing, 0u);
  EXPECT_EQ(health_.dropped_lines, 0u);
}

TEST_F(LogStallTest, WhatAContainerPrintedBeforeItEndedDuringAStallIsAllThereAfterwards) {
  StartWriter({.buffer_size = 64 * 1024});
  Writers writers;
  ContainerLog* log = OpenOnDisk("0.log", &writers);
  Freeze();
  int lines = 0;
  Beside([&] { lines = Fill(writers.out); });
  const sys::UniqueFd held = std::move(writers.out);  // by a process that outlives the container
  writers = {};
  EXPECT_EQ(Finish(log, absl::Milliseconds(50)), ETIMEDOUT);
  Thaw();
  Numbered count;
  for (int i = 0; i < 3000 && count.lines < static_cast<uint64_t>(lines); ++i) {
    absl::SleepFor(absl::Milliseconds(10));
    writer_->RunCompletions();
    const std::string text = Read(file_);
    count = {};
    Count(Entries(text.substr(0, text.rfind('\n') + 1)), &count);
  }
  EXPECT_EQ(count.lines, static_cast<uint64_t>(lines));
}

TEST_F(LogStallTest, InDropModeAnApplicationNeverBlocksAndTheLogTellsHowManyLinesAreMissing) {
  StartWriter({.buffer_size = 256 * 1024, .drop_when_full = true});
  Writers writers;
  ContainerLog* log = OpenOnDisk("0.log", &writers);
  constexpr int kLines = 300000;
  Print(writers.out, 0, 1000);
  Freeze();
  Beside([&] { Print(writers.out, 1000, kLines); });
  AwaitError(ETIMEDOUT);
  Thaw();
  AwaitError(0);
  Beside([&] { Print(writers.out, 1000 + kLines, 1000); });
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  Numbered count;
  Count(Entries(Read(file_)), &count);
  EXPECT_EQ(count.lines + count.missing, 1000u + kLines + 1000u);
  EXPECT_GT(count.missing, 100000u);
  EXPECT_GE(count.notices, 1);
  EXPECT_GT(count.missing_bytes, count.missing * strlen("line 1000\n"));
  writer_->RunCompletions();
  EXPECT_EQ(health_.dropped_lines, count.missing);
  EXPECT_EQ(health_.dropped_bytes, count.missing_bytes);
}

TEST_F(LogStallTest, AllLogsOfADiskThatHangsGoOnWhenItAnswers) {
  std::vector<Writers> writers(4);
  std::vector<ContainerLog*> logs;
  for (size_t i = 0; i < writers.size(); ++i) {
    logs.push_back(OpenOnDisk(absl::StrCat(i), &writers[i]));
  }
  for (int round = 0; round < 3; ++round) {
    Freeze();
    Beside([&] {
      for (Writers& each : writers) Print(each.out, round * 2000, 2000);
      absl::SleepFor(absl::Milliseconds(600));  // for one after the other to be given up on
    });
    Thaw();
  }
  for (size_t i = 0; i < writers.size(); ++i) {
    writers[i] = {};
    EXPECT_EQ(Finish(logs[i]), 0);
    Numbered count;
    Count(Entries(Read(absl::StrCat(mount_, "/", i))), &count);
    EXPECT_EQ(count.lines, 6000u);
  }
}

TEST_F(LogStallTest, OpeningReopeningAndClosingWaitForTheDiskAndNobodyForThem) {
  Writers old, fresh, fine;
  ContainerLog* log = OpenOnDisk("0.log", &old);
  Freeze();
  std::optional<int> opened, reopened, closed;
  ContainerLog* fresh_log = Begin(mount_ + "/1.log", &fresh, &opened);
  writer_->Reopen(log, [&](int e) { reopened = e; });
  Put(old.out, "line 0\n");
  ContainerLog* fine_log = Open(path_, &fine);
  fine = {};
  EXPECT_EQ(Finish(fine_log), 0);
  Close(fine_log);
  writer_->Close(log, [&](int e) { closed = e; });
  EXPECT_FALSE(opened || reopened || closed);
  Thaw();
  Await(opened);
  Await(closed);
  EXPECT_EQ(opened, 0);
  EXPECT_EQ(reopened, 0);
  EXPECT_EQ(Entries(Read(file_)), Lines{"stdout F line 0"});
  Close(fresh_log);
}

TEST_F(LogStallTest, TheEndOfTheWriterDoesNotWaitForADiskThatHangs) {
  Writers writers;
  OpenOnDisk("0.log", &writers);
  Freeze();
  Put(writers.out, "line 0\n");
  AwaitError(ETIMEDOUT);
  const absl::Time began = absl::Now();
  writer_.reset();
  EXPECT_LT(absl::Now() - began, absl::Seconds(10));
  Thaw();
  // The thread that was left behind writes and holds the file; it shares nothing with a new writer.
  StartWriter({});
  for (int i = 0; i < 3000 && Read(file_).empty(); ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(Entries(Read(file_)), Lines{"stdout F line 0"});
}

class LogDropTest : public FullDiskTest {};

TEST_F(LogDropTest, AFullDiskDropsWholeLinesAndSaysSoWhereTheyWouldBe) {
  StartWriter({.buffer_size = 64 * 1024, .drop_when_full = true});
  Writers writers;
  LogHealth health;
  ContainerLog* log = Open(file_, &writers, 0, [&](const LogHealth& h) { health = h; });
  constexpr int kLines = 200000;
  Print(writers.out, 0, kLines);
  Resize("size=64m");
  while (health.error != 0 || health.dropped_lines == 0) {
    pollfd poll_fd{writer_->completion_fd(), POLLIN, 0};
    ASSERT_EQ(poll(&poll_fd, 1, 30000), 1);
    writer_->RunCompletions();
  }
  Print(writers.out, kLines, 1000);
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  Numbered count;
  Count(Entries(Read(file_)), &count);
  EXPECT_EQ(count.lines + count.missing, kLines + 1000u);
  EXPECT_GT(count.missing, 100000u);
  EXPECT_EQ(health.dropped_lines, count.missing);
}

TEST_F(LogDropTest, ALineThatFitsNoEntryIsDroppedToItsEnd) {
  StartWriter({.max_line = 1000, .buffer_size = 64 * 1024, .drop_when_full = true});
  Writers writers;
  ContainerLog* log = Open(file_, &writers);
  Fill(writers.out, 0, 40000);
  Put(writers.out, std::string(300000, 'x'));
  Put(writers.out, std::string(300000, 'x') + "\n");
  Resize("size=64m");
  for (int i = 0; i < 3000 && Read(file_).find("missing here") == std::string::npos; ++i) {
    absl::SleepFor(absl::Milliseconds(10));
  }
  Put(writers.out, "last\n");
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  const Lines log_lines = Entries(Read(file_));
  EXPECT_EQ(log_lines.back(), "stdout F last");
  for (const std::string& line : log_lines) {
    EXPECT_EQ(line.find("xx"), std::string::npos);
    EXPECT_EQ(line.substr(0, 9), "stdout F ");
  }
}

}  // namespace
}  // namespace davit::sandbox
