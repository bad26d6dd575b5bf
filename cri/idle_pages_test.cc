#include "cri/idle_pages.h"

#include <fcntl.h>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

// Kilobytes of file pages in this process's page tables.
int64_t FileResident() {
  const auto status = sys::ReadFileAt(AT_FDCWD, "/proc/self/status", 1 << 20);
  EXPECT_TRUE(status.ok()) << status.status();
  for (absl::string_view line : absl::StrSplit(status.value_or(""), '\n')) {
    int64_t kilobytes = -1;
    if (!absl::ConsumePrefix(&line, "RssFile:")) continue;
    if (absl::SimpleAtoi(absl::StripSuffix(line, " kB"), &kilobytes)) return kilobytes;
  }
  ADD_FAILURE() << "/proc/self/status has no RssFile";
  return -1;
}

TEST(IdlePagesTest, TheProgramGoesOnWithFewerPages) {
  const int64_t before = FileResident();
  ReleaseIdlePages();
  EXPECT_LT(FileResident(), before);
  ReleaseIdlePages();
}

}  // namespace
}  // namespace davit::cri
