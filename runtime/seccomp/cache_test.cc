#include "runtime/seccomp/cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/notification.h"
#include "gtest/gtest.h"

namespace davit::runtime::seccomp {
namespace {

spec::Seccomp Base() {
  spec::Seccomp profile;
  profile.default_action = "SCMP_ACT_ALLOW";
  profile.syscalls.push_back({{"getpid", "getppid"}, "SCMP_ACT_ERRNO", 1, {}});
  return profile;
}

TEST(CanonicalKeyTest, ProfilesThatDifferAnywhereHaveDifferentKeys) {
  std::vector<spec::Seccomp> profiles(17, Base());
  profiles[1].syscalls[0].errno_ret = 2;
  profiles[2].syscalls[0].errno_ret.reset();
  profiles[3].syscalls[0].errno_ret = 0;
  profiles[4].syscalls[0].names = {"getpidgetppid"};
  profiles[5].syscalls[0].names = {"getpi", "dgetppid"};
  profiles[6].syscalls[0].names = {"getppid", "getpid"};
  profiles[7].default_action = "SCMP_ACT_LOG";
  profiles[8].default_errno_ret = 1;
  profiles[9].architectures = {"SCMP_ARCH_X86"};
  profiles[10].flags = {"SCMP_ARCH_X86"};
  profiles[11].syscalls.push_back(profiles[11].syscalls[0]);
  profiles[12].syscalls[0].args = {{0, 1, 2, "SCMP_CMP_EQ"}};
  profiles[13].syscalls[0].args = {{1, 1, 2, "SCMP_CMP_EQ"}};
  profiles[14].syscalls[0].args = {{0, 1, 3, "SCMP_CMP_EQ"}};
  profiles[15].syscalls[0].args = {{0, 1, 2, "SCMP_CMP_NE"}};
  profiles[16].syscalls = {{{"getpid"}, "SCMP_ACT_ERRNO", 1, {}},
                           {{"getppid"}, "SCMP_ACT_ERRNO", 1, {}}};
  std::set<std::string> keys;
  for (const auto& profile : profiles) keys.insert(CanonicalKey(profile));
  EXPECT_EQ(keys.size(), profiles.size());
}

TEST(CanonicalKeyTest, WhatDoesNotAffectTheProgramIsNotPartOfIt) {
  spec::Seccomp other = Base();
  other.listener_path = "/run/listener";
  other.listener_metadata = "x";
  EXPECT_EQ(CanonicalKey(other), CanonicalKey(Base()));
}

TEST(ProgramCacheTest, TheSameProfileIsCompiledOnceIntoASealedFile) {
  std::atomic<int> compiled = 0;
  ProgramCache cache(4, [&](const spec::Seccomp& profile) {
    ++compiled;
    return Compile(profile);
  });
  const auto first = cache.Get(Base());
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = cache.Get(Base());
  EXPECT_EQ(compiled, 1);
  EXPECT_EQ(first->get(), second->get());
  const int fd = (*first)->memfd.get();
  EXPECT_EQ(lseek(fd, 0, SEEK_END), static_cast<off_t>((*first)->instructions * 8));
  EXPECT_LT(pwrite(fd, "x", 1, 0), 0);
  EXPECT_EQ(fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE, F_SEAL_WRITE);
}

TEST(ProgramCacheTest, TheOneUnusedForLongestGoesAndStaysAliveWhileHeld) {
  std::atomic<int> compiled = 0;
  ProgramCache cache(2, [&](const spec::Seccomp&) -> absl::StatusOr<Program> {
    ++compiled;
    return Program{std::string(8, '\0'), 0, false};
  });
  auto profile = [](uint32_t number) {
    spec::Seccomp made = Base();
    made.syscalls[0].errno_ret = number;
    return made;
  };
  const auto held = *cache.Get(profile(2));
  (void)cache.Get(profile(1));
  (void)cache.Get(profile(2));
  (void)cache.Get(profile(3));  // 1 goes
  EXPECT_EQ(compiled, 3);
  (void)cache.Get(profile(2));
  EXPECT_EQ(compiled, 3);
  (void)cache.Get(profile(1));
  EXPECT_EQ(compiled, 4);
  (void)cache.Get(profile(3));  // gone by now
  EXPECT_EQ(compiled, 5);
  EXPECT_EQ(lseek(held->memfd.get(), 0, SEEK_END), 8);
}

TEST(ProgramCacheTest, CallersAtTheSameTimeShareOneCompilation) {
  std::atomic<int> compiled = 0;
  absl::Notification started;
  absl::Notification go_on;
  ProgramCache cache(2, [&](const spec::Seccomp&) -> absl::StatusOr<Program> {
    ++compiled;
    started.Notify();
    go_on.WaitForNotification();
    return Program{std::string(8, '\0'), 0, false};
  });
  std::vector<std::thread> threads;
  std::atomic<int> succeeded = 0;
  auto get = [&] { succeeded += cache.Get(Base()).ok() ? 1 : 0; };
  threads.emplace_back(get);
  started.WaitForNotification();
  for (int i = 0; i < 4; ++i) threads.emplace_back(get);
  go_on.Notify();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(succeeded, 5);
  EXPECT_EQ(compiled, 1);
}

TEST(ProgramCacheTest, AFailureIsToldAndNotKept) {
  std::atomic<int> compiled = 0;
  ProgramCache cache(2, [&](const spec::Seccomp&) -> absl::StatusOr<Program> {
    if (++compiled == 1) return absl::InternalError("no");
    return Program{std::string(8, '\0'), 0, false};
  });
  EXPECT_EQ(cache.Get(Base()).status().code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(cache.Get(Base()).ok());
}

}  // namespace
}  // namespace davit::runtime::seccomp
