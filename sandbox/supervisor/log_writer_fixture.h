#ifndef DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_FIXTURE_H_
#define DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_FIXTURE_H_

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"
#include "sandbox/supervisor/log_format.h"
#include "sandbox/supervisor/log_writer.h"

// For the tests of LogWriter: a writer with pipes into it, and disks that are full or hang.
namespace davit::sandbox {

class LogWriterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-log-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    dir_ = pattern;
    path_ = dir_ + "/0.log";
    StartWriter({});
  }
  void TearDown() override {
    writer_.reset();
    EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, dir_).ok());
  }

  void StartWriter(const LogWriter::Options& options) {
    auto writer = LogWriter::Start(options);
    ASSERT_TRUE(writer.ok()) << writer.status();
    writer_ = *std::move(writer);
  }

  struct Writers {
    sys::UniqueFd out, err;
  };

  ContainerLog* Open(const std::string& path, Writers* writers, int expected_error = 0,
                     LogWriter::OnHealth on_health = nullptr) {
    std::optional<int> error;
    ContainerLog* log = Begin(path, writers, &error, std::move(on_health));
    Await(error);
    EXPECT_EQ(error, expected_error);
    return log;
  }
  // The same without waiting for it.
  ContainerLog* Begin(const std::string& path, Writers* writers, std::optional<int>* opened,
                      LogWriter::OnHealth on_health = nullptr) {
    LogWriter::Streams streams;
    int fds[2];
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    streams.out.reset(fds[0]);
    writers->out.reset(fds[1]);
    EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
    streams.err.reset(fds[0]);
    writers->err.reset(fds[1]);
    return writer_->Open(
        path, std::move(streams), [opened](int e) { *opened = e; }, std::move(on_health));
  }

  // Runs completions until `value` is there.
  void Await(const std::optional<int>& value) {
    while (!value.has_value()) {
      pollfd poll_fd{writer_->completion_fd(), POLLIN, 0};
      ASSERT_EQ(poll(&poll_fd, 1, 30000), 1) << "no completion within 30 s";
      writer_->RunCompletions();
    }
  }
  int Finish(ContainerLog* log, absl::Duration timeout = absl::Seconds(30)) {
    std::optional<int> error;
    writer_->Finish(log, timeout, [&](int e) { error = e; });
    Await(error);
    return error.value_or(-1);
  }
  int Reopen(ContainerLog* log) {
    std::optional<int> error;
    writer_->Reopen(log, [&](int e) { error = e; });
    Await(error);
    return error.value_or(-1);
  }
  void Close(ContainerLog* log) {
    std::optional<int> error;
    writer_->Close(log, [&](int e) { error = e; });
    Await(error);
  }

  static void Put(const sys::UniqueFd& fd, const std::string& data) {
    ASSERT_TRUE(sys::WriteAll(fd.get(), data, "pipe").ok());
  }

  // Writes numbered lines, at most `most`; returns how many once the pipe takes no more.
  static int Fill(const sys::UniqueFd& fd, int first = 0, int most = 1 << 30) {
    fcntl(fd.get(), F_SETFL, O_NONBLOCK);
    int line = 0;
    while (line < most) {
      const std::string text = absl::StrCat("line ", first + line, "\n");
      if (write(fd.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) {
        ++line;
        continue;
      }
      pollfd poll_fd{fd.get(), POLLOUT, 0};
      if (poll(&poll_fd, 1, 1000) == 0) break;
    }
    fcntl(fd.get(), F_SETFL, 0);
    return line;
  }

  static std::string Read(const std::string& path) {
    auto data = sys::ReadFileAt(AT_FDCWD, path, size_t{1} << 30);
    return data.ok() ? *data : data.status().ToString();
  }

  // Entries without their time, whose shape is checked: "stdout F content".
  static std::vector<std::string> Entries(const std::string& text) {
    std::vector<std::string> entries;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) {
      EXPECT_GE(line.size(), kLogPrefixSize) << line;
      EXPECT_EQ(line.substr(29, 2), "Z ") << line;
      EXPECT_EQ(line[10], 'T') << line;
      entries.push_back(line.substr(31));
    }
    EXPECT_TRUE(text.empty() || text.back() == '\n');
    return entries;
  }
  using Lines = std::vector<std::string>;
  Lines Log() { return Entries(Read(path_)); }

  std::string dir_, path_;
  std::unique_ptr<LogWriter> writer_;
};

class FullDiskTest : public LogWriterTest {
 protected:
  void SetUp() override {
    LogWriterTest::SetUp();
    mount_ = dir_ + "/small";
    ASSERT_EQ(mkdir(mount_.c_str(), 0755), 0);
    ASSERT_EQ(mount("tmpfs", mount_.c_str(), "tmpfs", 0, "size=256k"), 0);
    file_ = mount_ + "/0.log";
  }
  void TearDown() override {
    writer_.reset();
    EXPECT_EQ(umount(mount_.c_str()), 0);
    LogWriterTest::TearDown();
  }
  void Resize(const char* option) {
    ASSERT_EQ(mount("tmpfs", mount_.c_str(), "tmpfs", MS_REMOUNT, option), 0);
  }
  static void ExpectNumbered(const std::string& text, int* next) {
    for (const std::string& entry : Entries(text)) {
      ASSERT_EQ(entry, absl::StrCat("stdout F line ", *next));
      ++*next;
    }
  }
  std::string mount_, file_;
};

// A disk that stops to answer: a file system of its own, frozen.
class StalledDiskTest : public LogWriterTest {
 protected:
  void SetUp() override {
    LogWriterTest::SetUp();
    mount_ = dir_ + "/disk";
    file_ = mount_ + "/0.log";
    ASSERT_EQ(mkdir(mount_.c_str(), 0755), 0);
    const std::string image = dir_ + "/image";
    ASSERT_EQ(std::system(absl::StrCat("truncate -s 64M ", image, " && /sbin/mkfs.ext4 -q -F ",
                                       image, " && mount -o loop ", image, " ", mount_)
                              .c_str()),
              0);
    directory_.reset(open(mount_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    ASSERT_TRUE(directory_.ok());
  }
  void TearDown() override {
    Thaw();
    writer_.reset();
    directory_.reset();
    EXPECT_EQ(umount(mount_.c_str()), 0);
    LogWriterTest::TearDown();
  }
  void Freeze() {
    ASSERT_EQ(ioctl(directory_.get(), FIFREEZE, 0), 0) << strerror(errno);
    frozen_ = true;
  }
  void Thaw() {
    if (!std::exchange(frozen_, false)) return;
    ASSERT_EQ(ioctl(directory_.get(), FITHAW, 0), 0);
  }
  std::string mount_, file_;
  sys::UniqueFd directory_;
  bool frozen_ = false;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_LOG_WRITER_FIXTURE_H_
