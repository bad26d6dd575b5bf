#include "runtime/container.h"

#include <gtest/gtest.h>

#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using testing::Bundle;
using testing::Sections;

TEST(ContainerTest, RunsThePayloadInItsOwnNamespaces) {
  Bundle bundle;
  const Sections out =
      bundle.RunProbe(bundle.DefaultSpec(),
                      {{"pid"}, {"names"}, {"cat", "/proc/self/mountinfo"}, {"fds"}, {"ls", "/"}});
  EXPECT_EQ(out.at("pid"), "1 0 1");
  EXPECT_EQ(out.at("names"), "davit-test (none)");
  EXPECT_EQ(out.at("fds"), "0 1 2 ");
}

}  // namespace
}  // namespace davit::runtime
