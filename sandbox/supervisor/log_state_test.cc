#include <fcntl.h>
#include <poll.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "sandbox/supervisor/log_writer.h"

namespace davit::sandbox {
namespace {

using upgrade::v1::SupervisorState;

// What a log goes through when its writer's program is replaced.
class LogStateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-log-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    dir_ = pattern;
    path_ = dir_ + "/0.log";
    auto writer = LogWriter::Start({});
    ASSERT_TRUE(writer.ok()) << writer.status();
    writer_ = *std::move(writer);
  }
  void TearDown() override {
    writer_.reset();
    EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, dir_).ok());
  }

  void Open() {
    int fds[2];
    LogWriter::Streams streams;
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    streams.out.reset(fds[0]);
    out_.reset(fds[1]);
    ASSERT_EQ(pipe2(fds, O_CLOEXEC), 0);
    streams.err.reset(fds[0]);
    err_.reset(fds[1]);
    std::optional<int> error;
    log_ = writer_->Open(path_, std::move(streams), [&](int e) { error = e; });
    Await(error);
    ASSERT_EQ(error, 0);
  }
  void Await(const std::optional<int>& value) {
    while (!value.has_value()) {
      pollfd poll_fd{writer_->completion_fd(), POLLIN, 0};
      ASSERT_EQ(poll(&poll_fd, 1, 30000), 1) << "no completion within 30 s";
      writer_->RunCompletions();
    }
  }
  void Suspend() {
    std::optional<int> error;
    writer_->Suspend([&](int e) { error = e; });
    Await(error);
  }
  int Finish(absl::Duration timeout = absl::Seconds(30)) {
    std::optional<int> error;
    writer_->Finish(log_, timeout, [&](int e) { error = e; });
    Await(error);
    return error.value_or(-1);
  }

  // Another writer goes on where this one stopped. The old one stays at rest for ever: its
  // descriptors are the new one's now, as after an execve.
  void Replace() {
    Suspend();
    ASSERT_TRUE(writer_->AtRest());
    SupervisorState state;
    SavedDescriptors saved(&state);
    *state.add_containers()->mutable_log() = writer_->Save(*log_, &saved);
    const std::string bytes = state.SerializeAsString();
    static auto* const old = new std::vector<LogWriter*>;
    old->push_back(writer_.release());
    SupervisorState read;
    ASSERT_TRUE(read.ParseFromString(bytes));
    auto inherited = InheritedDescriptors::Check(read);
    ASSERT_TRUE(inherited.ok()) << inherited.status();
    auto writer = LogWriter::Create({});
    ASSERT_TRUE(writer.ok()) << writer.status();
    writer_ = *std::move(writer);
    auto log = writer_->Restore(read.containers(0).log(), &*inherited);
    ASSERT_TRUE(log.ok()) << log.status();
    log_ = *log;
    const absl::Status started = writer_->StartThread();
    ASSERT_TRUE(started.ok()) << started;
  }

  static void Put(const sys::UniqueFd& fd, const std::string& data) {
    ASSERT_TRUE(sys::WriteAll(fd.get(), data, "pipe").ok());
  }
  // "stdout F content" of every entry.
  std::vector<std::string> Log() const {
    std::vector<std::string> entries;
    std::istringstream in(sys::ReadFileAt(AT_FDCWD, path_, size_t{1} << 30).value_or(""));
    for (std::string line; std::getline(in, line);) {
      entries.push_back(line.size() > 31 ? line.substr(31) : "short: " + line);
    }
    return entries;
  }

  std::string dir_, path_;
  std::unique_ptr<LogWriter> writer_;
  ContainerLog* log_ = nullptr;
  sys::UniqueFd out_, err_;
};

using Lines = std::vector<std::string>;

TEST_F(LogStateTest, AHalfReadLineGoesOnInTheNextWriter) {
  Open();
  Put(out_, "whole\nbegun ");
  Put(err_, "error with\\0 ");
  Replace();
  Put(out_, "and ended\n");
  Put(err_, "its end\n");
  out_.reset();
  err_.reset();
  EXPECT_EQ(Finish(), 0);
  const Lines log = Log();
  ASSERT_EQ(log.size(), 3u);
  EXPECT_EQ(log[0], "stdout F whole");
  EXPECT_EQ(std::set<std::string>(log.begin() + 1, log.end()),
            (std::set<std::string>{"stdout F begun and ended", "stderr F error with\\0 its end"}));
}

TEST_F(LogStateTest, WhatIsPrintedWhileNoWriterWorksIsReadAfterwards) {
  Open();
  Suspend();
  Put(out_, "in the pipe\n");
  out_.reset();
  err_.reset();
  EXPECT_EQ(Log(), Lines{});
  writer_->Resume();
  Replace();
  EXPECT_EQ(Finish(), 0);
  EXPECT_EQ(Log(), Lines{"stdout F in the pipe"});
}

TEST_F(LogStateTest, AtFullRateEveryLineIsThereOnceAndInOrder) {
  Open();
  constexpr int kLines = 300000;
  std::thread printer([fd = std::move(out_)] {
    std::string text;
    for (int i = 0; i < kLines; ++i) {
      absl::StrAppend(&text, "line ", i, "\n");
      if (text.size() < 3000) continue;
      Put(fd, text);
      text.clear();
    }
    Put(fd, text);
  });
  err_.reset();
  for (int i = 0; i < 20; ++i) Replace();
  printer.join();
  EXPECT_EQ(Finish(), 0);
  const Lines log = Log();
  ASSERT_EQ(log.size(), static_cast<size_t>(kLines));
  for (int i = 0; i < kLines; ++i) ASSERT_EQ(log[i], absl::StrCat("stdout F line ", i));
}

TEST_F(LogStateTest, WhatAFullDiskDidNotTakeIsCarriedOnByTheNextWriter) {
  ASSERT_EQ(mount("tmpfs", dir_.c_str(), "tmpfs", 0, "size=64k"), 0);
  Open();
  std::string ballast_path = dir_ + "/ballast";
  sys::UniqueFd ballast(open(ballast_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  ASSERT_EQ(posix_fallocate(ballast.get(), 0, 60 * 1024), 0);
  std::string text;
  int lines = 0;
  while (text.size() < 10 * 1024) absl::StrAppend(&text, "full disk, line ", lines++, "\n");
  Put(out_, text);
  out_.reset();
  err_.reset();
  EXPECT_EQ(Finish(absl::Milliseconds(10)), ENOSPC);
  Replace();
  Replace();
  EXPECT_EQ(Finish(absl::Milliseconds(10)), ENOSPC);
  ASSERT_EQ(ftruncate(ballast.get(), 0), 0);
  EXPECT_EQ(Finish(), 0);
  const Lines log = Log();
  ASSERT_EQ(log.size(), static_cast<size_t>(lines));
  for (int i = 0; i < lines; ++i) {
    ASSERT_EQ(log[i], absl::StrCat("stdout F full disk, line ", i));
  }
  std::optional<int> closed;
  writer_->Close(log_, [&](int e) { closed = e; });
  Await(closed);
  ballast.reset();
  ASSERT_EQ(umount2(dir_.c_str(), MNT_DETACH), 0);
}

TEST_F(LogStateTest, AWriterThatIsNotReplacedAfterAllWorksOn) {
  Open();
  std::optional<int> suspended;
  writer_->Suspend([&](int e) { suspended = e; });
  writer_->Resume();  // before it has come to rest
  Await(suspended);
  EXPECT_FALSE(writer_->AtRest());
  Put(out_, "first\n");
  Suspend();
  EXPECT_TRUE(writer_->AtRest());
  writer_->Resume();
  Put(out_, "second\n");
  out_.reset();
  err_.reset();
  EXPECT_EQ(Finish(), 0);
  EXPECT_EQ(Log(), (Lines{"stdout F first", "stdout F second"}));
}

TEST_F(LogStateTest, AStateThatMakesNoSenseIsRefused) {
  upgrade::v1::LogState state;
  state.set_path(path_);
  state.set_unwritten("abc");
  state.set_write_at(4);
  SupervisorState none;
  auto inherited = InheritedDescriptors::Check(none);
  ASSERT_TRUE(inherited.ok());
  auto writer = LogWriter::Create({});
  ASSERT_TRUE(writer.ok());
  EXPECT_FALSE((*writer)->Restore(state, &*inherited).ok());
  state.set_write_at(3);
  state.mutable_out()->set_kept(std::string(1 << 20, 'x'));
  EXPECT_FALSE((*writer)->Restore(state, &*inherited).ok());
  state.mutable_out()->set_kept("x");
  state.mutable_out()->set_fd(77);  // never handed on
  EXPECT_FALSE((*writer)->Restore(state, &*inherited).ok());
}

}  // namespace
}  // namespace davit::sandbox
