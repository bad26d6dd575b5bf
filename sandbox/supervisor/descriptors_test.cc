#include "sandbox/supervisor/descriptors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

using upgrade::v1::SupervisorState;

bool IsOpen(int fd) { return fcntl(fd, F_GETFD) >= 0; }
bool ClosesOnExec(int fd) { return (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0; }

int Null() { return open("/dev/null", O_RDWR | O_CLOEXEC); }

TEST(DescriptorsTest, WhatIsSavedIsHandedOnOnceAndTheRestIsClosed) {
  SupervisorState state;
  SavedDescriptors saved(&state);
  const int first = Null(), second = Null();
  EXPECT_EQ(saved.Add(first), static_cast<uint32_t>(first));
  EXPECT_EQ(saved.Add(second), static_cast<uint32_t>(second));
  EXPECT_EQ(saved.Add(-1), 0u);
  ASSERT_TRUE(saved.KeepOverExec(true).ok());
  EXPECT_FALSE(ClosesOnExec(first));
  ASSERT_TRUE(saved.KeepOverExec(false).ok());
  EXPECT_TRUE(ClosesOnExec(first));
  ASSERT_TRUE(saved.KeepOverExec(true).ok());
  {
    auto inherited = InheritedDescriptors::Check(state);
    ASSERT_TRUE(inherited.ok()) << inherited.status();
    EXPECT_TRUE(ClosesOnExec(first));
    auto taken = inherited->Take(static_cast<uint32_t>(first));
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(taken->get(), first);
    EXPECT_FALSE(inherited->Take(static_cast<uint32_t>(first)).ok());
    EXPECT_FALSE(inherited->Take(99).ok());
    EXPECT_FALSE(inherited->TakeNeeded(0, "a thing").ok());
    auto none = inherited->Take(0);
    ASSERT_TRUE(none.ok());
    EXPECT_FALSE(none->ok());
  }
  EXPECT_FALSE(IsOpen(second)) << "taken by nobody";
}

TEST(DescriptorsTest, AnotherFileUnderTheNumberIsRefusedAndNothingIsClosed) {
  SupervisorState state;
  SavedDescriptors saved(&state);
  const int first = Null(), second = Null();
  saved.Add(first);
  saved.Add(second);
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  ASSERT_EQ(dup3(pipe_fds[0], second, O_CLOEXEC), second);
  const auto changed = InheritedDescriptors::Check(state);
  EXPECT_TRUE(absl::StrContains(changed.status().message(), "is another file than it was"));
  close(second);
  const auto missing = InheritedDescriptors::Check(state);
  EXPECT_TRUE(absl::StrContains(missing.status().message(), "is not open"));
  EXPECT_TRUE(IsOpen(first));
  state.mutable_descriptors()->RemoveLast();
  *state.add_descriptors() = state.descriptors(0);
  EXPECT_TRUE(absl::StrContains(InheritedDescriptors::Check(state).status().message(), "twice"));
  EXPECT_TRUE(IsOpen(first));
  state.mutable_descriptors(1)->set_number(2);
  EXPECT_FALSE(InheritedDescriptors::Check(state).ok());
  state.mutable_descriptors(1)->set_number(~0u);
  EXPECT_FALSE(InheritedDescriptors::Check(state).ok());
  close(first);
  close(pipe_fds[0]);
  close(pipe_fds[1]);
}

}  // namespace
}  // namespace davit::sandbox
