#include "sandbox/container_outcome.h"

#include <signal.h>

#include <cerrno>

#include "gtest/gtest.h"
#include "proto/supervisor.pb.h"

namespace davit::sandbox {
namespace {

constexpr int Exited(int code) { return code << 8; }

TEST(ContainerOutcomeTest, ExitZeroIsCompletedAndAnythingElseAnError) {
  EXPECT_EQ(OutcomeOf(Exited(0), false, "").reason, "Completed");
  const Outcome failed = OutcomeOf(Exited(3), false, "");
  EXPECT_EQ(failed.exit_code, 3);
  EXPECT_EQ(failed.reason, "Error");
}

TEST(ContainerOutcomeTest, ADeadlySignalCounts128PlusItsNumber) {
  const Outcome outcome = OutcomeOf(SIGTERM, false, "");
  EXPECT_EQ(outcome.exit_code, 143);
  EXPECT_EQ(outcome.reason, "Error");
}

TEST(ContainerOutcomeTest, OomKilledNeedsBothTheEventAndTheKill) {
  EXPECT_EQ(OutcomeOf(SIGKILL, true, "").reason, "OOMKilled");
  EXPECT_EQ(OutcomeOf(Exited(137), true, "").reason, "OOMKilled") << "a shell that tells of it";
  EXPECT_EQ(OutcomeOf(SIGKILL, false, "").reason, "Error");
  EXPECT_EQ(OutcomeOf(Exited(1), true, "").reason, "Error") << "it outlived a child's death";
  EXPECT_EQ(OutcomeOf(Exited(0), true, "").reason, "Completed");
}

TEST(ContainerOutcomeTest, AMessageIsUtf8WhateverItQuotes) {
  EXPECT_EQ(OutcomeOf(0, false, "exec /\xff").message, "exec /\xef\xbf\xbd");
  supervisor::v1::ContainerState state;
  state.set_start_errno(2);
  state.set_message("exec /\xff");
  EXPECT_EQ(OutcomeOf(state).message, "exec /\xef\xbf\xbd");
}

TEST(ContainerOutcomeTest, APayloadThatCouldNotBeExecutedIsAStartError) {
  supervisor::v1::ContainerState state;
  state.set_start_errno(ENOENT);
  state.set_wait_status(Exited(1));
  state.set_message("exec /bin/none: No such file or directory (ENOENT)");
  const Outcome outcome = OutcomeOf(state);
  EXPECT_EQ(outcome.exit_code, 128);
  EXPECT_EQ(outcome.reason, "StartError");
  EXPECT_EQ(outcome.message, state.message());
  state.clear_message();
  EXPECT_NE(OutcomeOf(state).message.find("ENOENT"), std::string::npos);
}

}  // namespace
}  // namespace davit::sandbox
