#include "runtime/sys/thread.h"

#include <pthread.h>

#include <atomic>

#include "gtest/gtest.h"

namespace davit::sys {
namespace {

TEST(ThreadTest, RunsItsBody) {
  std::atomic<bool> ran = false;
  auto thread = StartThread([&] { ran = true; });
  ASSERT_TRUE(thread.ok()) << thread.status();
  thread->join();
  EXPECT_TRUE(ran);
}

TEST(ThreadTest, OneThatCannotBeStartedIsAnErrorAndNotTheEndOfTheProcess) {
  pthread_attr_t usual, huge;
  ASSERT_EQ(pthread_getattr_default_np(&usual), 0);
  ASSERT_EQ(pthread_attr_init(&huge), 0);
  // More than there are addresses.
  ASSERT_EQ(pthread_attr_setstacksize(&huge, size_t{1} << 50), 0);
  ASSERT_EQ(pthread_setattr_default_np(&huge), 0);
  const auto thread = StartThread([] {});
  ASSERT_EQ(pthread_setattr_default_np(&usual), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(thread.status())) << thread.status();
}

}  // namespace
}  // namespace davit::sys
