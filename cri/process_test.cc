#include "cri/process.h"

#include "gtest/gtest.h"

namespace davit::cri {
namespace {

using Strings = std::vector<std::string>;

TEST(ProcessTest, CommandAndArgumentsMergeWithTheImages) {
  struct {
    Strings command, args, entrypoint, cmd, expected;
  } const cases[] = {
      {{}, {}, {"e"}, {"c"}, {"e", "c"}}, {{}, {"a"}, {"e"}, {"c"}, {"e", "a"}},
      {{"x"}, {}, {"e"}, {"c"}, {"x"}},   {{"x"}, {"a"}, {"e"}, {"c"}, {"x", "a"}},
      {{}, {}, {}, {"sh"}, {"sh"}},       {{}, {"a"}, {}, {"sh"}, {"a"}},
  };
  for (const auto& c : cases) {
    ProcessRequest request;
    request.command = c.command;
    request.args = c.args;
    images::ImageConfig image;
    image.entrypoint = c.entrypoint;
    image.cmd = c.cmd;
    EXPECT_EQ(BuildArgs(request, image).value_or(Strings{"?"}), c.expected);
  }
  EXPECT_EQ(BuildArgs({}, {}).status().code(), absl::StatusCode::kInvalidArgument);
  ProcessRequest nul;
  nul.command = {std::string("a\0b", 3)};
  EXPECT_EQ(BuildArgs(nul, {}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ProcessTest, TheEnvironmentComesFromDefaultsImageAndRequestInThisOrder) {
  ProcessRequest request;
  request.hostname = "web-1";
  request.home = "/root";
  request.envs = {{"A", "request"}, {"EMPTY", ""}, {"BYTES", "\xff\xfe"}, {"A", "last"}};
  images::ImageConfig image;
  image.env = {"PATH=/bin", "A=image", "B=b=c", "nonsense", "=x", "TERM=vt100"};
  EXPECT_EQ(BuildEnvironment(request, image).value_or(Strings{}),
            (Strings{"PATH=/bin", "HOSTNAME=web-1", "HOME=/root", "A=last", "B=b=c", "TERM=vt100",
                     "EMPTY=", "BYTES=\xff\xfe"}));
  request.tty = true;
  EXPECT_EQ(BuildEnvironment(request, {})->at(2), "TERM=xterm");
  EXPECT_EQ(BuildEnvironment(request, {})->at(0).substr(0, 21), "PATH=/usr/local/sbin:");
}

TEST(ProcessTest, BadNamesAndValuesAreInvalid) {
  for (const auto& bad : {std::pair<std::string, std::string>{"", "x"},
                          {"A=B", "x"},
                          {std::string("A\0", 2), "x"},
                          {"A", std::string("x\0", 2)}}) {
    ProcessRequest request;
    request.envs = {bad};
    EXPECT_EQ(BuildEnvironment(request, {}).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(ProcessTest, TheWorkingDirectory) {
  ProcessRequest request;
  images::ImageConfig image;
  EXPECT_EQ(ChooseWorkingDir(request, image).value_or("?"), "/");
  image.working_dir = "app";
  EXPECT_EQ(ChooseWorkingDir(request, image).value_or("?"), "/app");
  request.working_dir = "/work";
  EXPECT_EQ(ChooseWorkingDir(request, image).value_or("?"), "/work");
  request.working_dir = "work";
  EXPECT_EQ(ChooseWorkingDir(request, image).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace davit::cri
