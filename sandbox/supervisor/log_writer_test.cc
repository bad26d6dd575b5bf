#include "sandbox/supervisor/log_writer.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "sandbox/supervisor/log_writer_fixture.h"

namespace davit::sandbox {
namespace {

TEST_F(LogWriterTest, BothStreamsGoToTheFileWithTheirNames) {
  Writers writers;
  ContainerLog* log = Open(path_, &writers);
  Put(writers.out, "hello\n");
  writers.out.reset();
  EXPECT_EQ(Finish(log, absl::Milliseconds(10)), ETIMEDOUT);  // stderr is still open
  EXPECT_EQ(Log(), (Lines{"stdout F hello"}));
  Close(log);

  ContainerLog* second = Open(path_, &writers);  // the next attempt appends
  Put(writers.err, "oops\r\n");
  writers = {};
  EXPECT_EQ(Finish(second), 0);
  EXPECT_EQ(Log(), (Lines{"stdout F hello", "stderr F oops"}));
  struct stat st;
  ASSERT_EQ(stat(path_.c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0640u);
}

TEST_F(LogWriterTest, MissingDirectoriesAreMade) {
  const std::string path = dir_ + "/a/b/0.log";
  Writers writers;
  ContainerLog* log = Open(path, &writers);
  Put(writers.out, "x\n");
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  EXPECT_EQ(Entries(Read(path)), Lines{"stdout F x"});
}

TEST_F(LogWriterTest, APathThatCannotBeOpenedIsReported) {
  Writers writers;
  Put(writers.out, "");
  ASSERT_EQ(mkdir(path_.c_str(), 0755), 0);
  ContainerLog* log = Open(path_, &writers, EISDIR);
  Close(log);
  const std::string fifo = dir_ + "/fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0644), 0);
  Close(Open(fifo, &writers, ENXIO));
  Close(Open(dir_ + "/" + std::string(300, 'n'), &writers, ENAMETOOLONG));
  const std::string link = dir_ + "/link";
  ASSERT_EQ(symlink((dir_ + "/elsewhere").c_str(), link.c_str()), 0);
  Close(Open(link, &writers, ELOOP));
  EXPECT_NE(access((dir_ + "/elsewhere").c_str(), F_OK), 0);
}

TEST_F(LogWriterTest, WithoutAPathTheOutputIsDroppedAndNothingBlocks) {
  Writers writers;
  ContainerLog* log = Open("", &writers);
  Put(writers.out, std::string(1 << 20, 'x'));
  EXPECT_EQ(Reopen(log), 0);
  writers = {};
  EXPECT_EQ(Finish(log), 0);
}

TEST_F(LogWriterTest, LinesInPiecesAndLongLinesComeOutWhole) {
  Writers writers;
  ContainerLog* log = Open(path_, &writers);
  Put(writers.out, "one");
  Put(writers.out, " two\nthree");
  const std::string a(16384, 'a');
  Put(writers.err, a);
  Put(writers.err, "\n" + a);
  Put(writers.err, "b\nend");
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  Lines out, err;
  for (const std::string& line : Log()) (line[3] == 'o' ? out : err).push_back(line);
  EXPECT_EQ(out, (Lines{"stdout F one two", "stdout P three"}));
  EXPECT_EQ(err, (Lines{"stderr F " + a, "stderr P " + a, "stderr F b", "stderr P end"}));
}

TEST_F(LogWriterTest, AnUnfinishedLineOfAHeldStreamIsWrittenAtTheDeadline) {
  Writers writers;
  ContainerLog* log = Open(path_, &writers);
  Put(writers.out, "tail");
  EXPECT_EQ(Finish(log, absl::Milliseconds(20)), ETIMEDOUT);
  EXPECT_EQ(Log(), Lines{"stdout P tail"});
}

TEST_F(LogWriterTest, RotationUnderLoadLosesAndTearsNothing) {
  Writers writers;
  ContainerLog* log = Open(path_, &writers);
  constexpr int kLines = 200000;
  std::thread application([&] {
    std::string block;
    for (int i = 0; i < kLines; ++i) {
      absl::StrAppend(&block, "line ", i, "\n");
      if (block.size() > 7000) {
        Put(writers.out, block);
        block.clear();
      }
    }
    Put(writers.out, block);
    writers = {};
  });
  std::vector<std::string> files;
  for (int i = 0; i < 20; ++i) {
    files.push_back(absl::StrCat(path_, ".", i));
    ASSERT_EQ(rename(path_.c_str(), files.back().c_str()), 0);
    ASSERT_EQ(Reopen(log), 0);
    ASSERT_EQ(access(path_.c_str(), F_OK), 0);
  }
  application.join();
  EXPECT_EQ(Finish(log), 0);
  files.push_back(path_);
  int next = 0;
  for (const std::string& file : files) {
    for (const std::string& entry : Entries(Read(file))) {
      ASSERT_EQ(entry, absl::StrCat("stdout F line ", next)) << file;
      ++next;
    }
  }
  EXPECT_EQ(next, kLines);
}

TEST_F(LogWriterTest, AFailingReopenKeepsTheOldFileAndMakesNoNewOne) {
  const std::string sub = dir_ + "/sub";
  Writers writers;
  ContainerLog* log = Open(sub + "/0.log", &writers);
  ASSERT_EQ(rename(sub.c_str(), (dir_ + "/moved").c_str()), 0);
  EXPECT_EQ(Reopen(log), ENOENT);
  EXPECT_NE(access(sub.c_str(), F_OK), 0);
  Put(writers.out, "still here\n");
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  EXPECT_EQ(Entries(Read(dir_ + "/moved/0.log")), Lines{"stdout F still here"});
}

TEST_F(FullDiskTest, AFullDiskBlocksTheApplicationAndLosesNothing) {
  Writers writers;
  ContainerLog* log = Open(file_, &writers);
  const int lines = Fill(writers.out);
  EXPECT_GT(lines, 4000);
  Resize("size=64m");
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  int next = 0;
  ExpectNumbered(Read(file_), &next);
  EXPECT_EQ(next, lines);
}

TEST_F(FullDiskTest, ReopeningOnAnotherDiskGoesOnWithAWholeEntry) {
  Writers writers;
  const std::string way = dir_ + "/way";
  const std::string other = dir_ + "/other";
  ASSERT_EQ(symlink(mount_.c_str(), way.c_str()), 0);
  ASSERT_EQ(mkdir(other.c_str(), 0755), 0);
  ContainerLog* log = Open(way + "/0.log", &writers);
  const int lines = Fill(writers.out);
  // What a rotation to another place looks like to the writer: the path leads elsewhere.
  ASSERT_EQ(unlink(way.c_str()), 0);
  ASSERT_EQ(symlink(other.c_str(), way.c_str()), 0);
  ASSERT_EQ(Reopen(log), 0);
  writers = {};
  EXPECT_EQ(Finish(log), 0);
  int next = 0;
  ExpectNumbered(Read(file_), &next);
  EXPECT_GT(next, 1000);
  ExpectNumbered(Read(other + "/0.log"), &next);
  EXPECT_EQ(next, lines);
}

TEST_F(FullDiskTest, TheExitIsNotHeldUpByAFullDisk) {
  Writers writers;
  ContainerLog* log = Open(file_, &writers);
  const int lines = Fill(writers.out);
  writers = {};
  EXPECT_EQ(Finish(log, absl::Milliseconds(50)), ENOSPC);
  Resize("size=64m");
  // What is left is still written once there is room.
  EXPECT_EQ(Finish(log), 0);
  int next = 0;
  ExpectNumbered(Read(file_), &next);
  EXPECT_EQ(next, lines);
}

TEST_F(LogWriterTest, AFullDeviceOfOneContainerDoesNotStopAnother) {
  Writers full, fine;
  Open("/dev/full", &full);
  ContainerLog* log = Open(path_, &fine);
  Put(full.out, "never\n");
  for (int i = 0; i < 1000; ++i) Put(fine.out, "x\n");
  fine = {};
  EXPECT_EQ(Finish(log), 0);
  EXPECT_EQ(Log().size(), 1000u);
}

TEST_F(LogWriterTest, ATerminalThatIsClosedAndOpenedAgainGoesOn) {
  sys::UniqueFd master(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_TRUE(master.ok());
  ASSERT_EQ(grantpt(master.get()) | unlockpt(master.get()), 0);
  const std::string slave_name = ptsname(master.get());
  sys::UniqueFd slave(open(slave_name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  LogWriter::Streams streams;
  streams.out = std::move(master);
  streams.tty = true;
  std::optional<int> opened;
  ContainerLog* log = writer_->Open(path_, std::move(streams), [&](int e) { opened = e; });
  Await(opened);
  Put(slave, "one\n");
  const auto wait_for_lines = [&](size_t count) {
    for (int i = 0; i < 3000 && Log().size() < count; ++i) usleep(10000);
  };
  wait_for_lines(1);
  slave.reset();
  slave.reset(open(slave_name.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  Put(slave, "two\n");
  wait_for_lines(2);
  Put(slave, "three\n");
  slave.reset();
  EXPECT_EQ(Finish(log), 0);
  EXPECT_EQ(Log(), (Lines{"stdout F one", "stdout F two", "stdout F three"}));
}

TEST_F(LogWriterTest, ManyLogsAreServedByOneThread) {
  std::vector<Writers> writers(40);
  std::vector<ContainerLog*> logs;
  for (size_t i = 0; i < writers.size(); ++i) {
    logs.push_back(Open(absl::StrCat(dir_, "/", i), &writers[i]));
  }
  for (int round = 0; round < 100; ++round) {
    for (Writers& w : writers) Put(w.out, absl::StrCat("round ", round, "\n"));
  }
  for (size_t i = 0; i < writers.size(); ++i) {
    writers[i] = {};
    EXPECT_EQ(Finish(logs[i]), 0);
    EXPECT_EQ(Entries(Read(absl::StrCat(dir_, "/", i))).size(), 100u);
    Close(logs[i]);
  }
}

}  // namespace
}  // namespace davit::sandbox
