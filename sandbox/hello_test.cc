#include "sandbox/hello.h"

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::HelloReply;

std::vector<sys::UniqueFd> Descriptors(int count) {
  std::vector<sys::UniqueFd> fds;
  for (int i = 0; i < count; ++i) fds.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
  return fds;
}

TEST(Hello, PidfdsGoToTheContainersThatTheyAreSaidToBeOf) {
  HelloReply reply;
  reply.add_containers()->set_container_id("a");
  reply.add_containers()->set_container_id("b");
  reply.add_pidfd_of(1);
  auto fds = Descriptors(1);
  const int number = fds[0].get();
  const auto pidfds = PidfdsOf(reply, "", std::move(fds));
  ASSERT_TRUE(pidfds.ok()) << pidfds.status();
  ASSERT_EQ(pidfds->size(), 1u);
  EXPECT_EQ(pidfds->at("b").get(), number);
}

TEST(Hello, ARepliesDescriptorsHaveToFitIt) {
  HelloReply reply;
  reply.add_containers()->set_container_id("a");
  EXPECT_EQ(PidfdsOf(reply, "", Descriptors(1)).status().code(), absl::StatusCode::kDataLoss);
  reply.add_pidfd_of(1);
  EXPECT_EQ(PidfdsOf(reply, "", Descriptors(1)).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PidfdsOf(reply, "", {}).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Hello, ASupervisorCannotHaveItsReaderAskForEver) {
  HelloReply reply;
  reply.set_more(true);
  EXPECT_EQ(PidfdsOf(reply, "", {}).status().code(), absl::StatusCode::kDataLoss);
  reply.add_containers()->set_container_id("a");
  EXPECT_TRUE(PidfdsOf(reply, "", {}).ok());
  EXPECT_EQ(PidfdsOf(reply, "a", {}).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Hello, APidIsTakenOnlyForAProcessOfTheContainersGroup) {
  const auto cgroups = sys::ReadFileAt(AT_FDCWD, "/proc/self/cgroup", 65536);
  ASSERT_TRUE(cgroups.ok());
  // The path of the first line.
  const size_t begin = cgroups->find(':', cgroups->find(':') + 1) + 1;
  const std::string own = cgroups->substr(begin, cgroups->find('\n') - begin);
  EXPECT_TRUE(OpenMember(getpid(), own).ok());
  EXPECT_FALSE(OpenMember(getpid(), "/davit-of-another").ok());
  EXPECT_FALSE(OpenMember(0x3fffffff, own).ok());
}

}  // namespace
}  // namespace davit::sandbox
