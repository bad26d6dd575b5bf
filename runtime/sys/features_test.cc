#include "runtime/sys/features.h"

#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace davit::sys {
namespace {

size_t CountEntries(const char* directory) {
  size_t count = 0;
  DIR* stream = opendir(directory);
  while (readdir(stream) != nullptr) ++count;
  closedir(stream);
  return count;
}

TEST(FeaturesTest, EverythingThatThisProjectStandsOnIsFound) {
  const KernelFeatures features = ProbeKernel();
  EXPECT_TRUE(CheckKernelFloor(features).ok()) << CheckKernelFloor(features);
  EXPECT_TRUE(features.openat2 && features.new_mount_api && features.mount_setattr);
  EXPECT_TRUE(features.clone_into_cgroup);
  EXPECT_TRUE(features.seccomp_filter);
  EXPECT_GE(features.major, 6);
}

TEST(FeaturesTest, WhatCameWithAVersionIsFoundFromThatVersionOn) {
  const KernelFeatures features = ProbeKernel();
  const int version = features.major * 1000 + features.minor;
  if (features.overlay) {
    EXPECT_EQ(features.overlay_lowerdir_append, version >= 6007);
    EXPECT_EQ(features.overlay_layer_fds, version >= 6013);
  }
  EXPECT_EQ(features.clone_detached_mount, version >= 6015);
  EXPECT_EQ(features.move_into_detached, version >= 6015);
  EXPECT_EQ(features.pidfd_exit_info, version >= 6015);
  if (features.user_namespaces) {
    EXPECT_EQ(features.idmapped_tmpfs, version >= 6003);
  }
}

TEST(FeaturesTest, ProbingLeavesNoDescriptorMountOrChildBehind) {
  ProbeKernel();
  const size_t fds = CountEntries("/proc/self/fd");
  ProbeKernel();
  EXPECT_EQ(CountEntries("/proc/self/fd"), fds);
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG | __WALL), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(FeaturesTest, AProcessThatIsKilledWhileItProbesLeavesNoChildThatLivesOn) {
  // Orphans become this process's children.
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
  for (int round = 0; round < 60; ++round) {
    const pid_t prober = fork();
    if (prober == 0) {
      for (;;) ProbeKernel();
    }
    usleep(static_cast<useconds_t>(round) * 150);
    ASSERT_EQ(kill(prober, SIGKILL), 0);
    alarm(20);  // an orphan that lives on would be waited for without end
    while (waitpid(-1, nullptr, __WALL) > 0) {
    }
    alarm(0);
    ASSERT_EQ(errno, ECHILD);
  }
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0), 0);
}

TEST(FeaturesTest, AnOldKernelIsRefusedWithAReason) {
  KernelFeatures features = ProbeKernel();
  features.release = "5.15.0-91-generic";
  features.major = 5;
  features.minor = 15;
  const absl::Status status = CheckKernelFloor(features);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("5.15.0-91-generic"));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("6.1"));
}

TEST(FeaturesTest, ABlockedSystemCallIsRefusedByName) {
  KernelFeatures features = ProbeKernel();
  features.openat2 = false;
  EXPECT_THAT(std::string(CheckKernelFloor(features).message()), testing::HasSubstr("openat2"));
}

TEST(FeaturesTest, TheDescriptionTellsWhatIsThereFromWhatIsNot) {
  KernelFeatures features;
  features.release = "6.1.0";
  features.overlay = true;
  features.landlock_abi = 2;
  const std::string text = Describe(features);
  const size_t without = text.find("without");
  ASSERT_NE(without, std::string::npos);
  EXPECT_LT(text.find(" overlay "), without);
  EXPECT_LT(text.find("landlock_abi=2"), without);
  EXPECT_GT(text.find("pidfd_exit_info"), without);
}

}  // namespace
}  // namespace davit::sys
