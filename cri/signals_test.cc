#include "cri/signals.h"

#include <signal.h>

#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

TEST(SignalsTest, ImagesNameSignalsInManyWays) {
  EXPECT_EQ(ParseSignal("SIGTERM").value_or(-1), SIGTERM);
  EXPECT_EQ(ParseSignal("term").value_or(-1), SIGTERM);
  EXPECT_EQ(ParseSignal("9").value_or(-1), SIGKILL);
  EXPECT_EQ(ParseSignal("SIGRTMIN").value_or(-1), 34);
  EXPECT_EQ(ParseSignal("SIGRTMIN+3").value_or(-1), 37);
  EXPECT_EQ(ParseSignal("RTMAX-1").value_or(-1), 63);
  for (const char* bad : {"", "0", "65", "-9", "SIG", "SIGNOPE", "RTMIN+31", "RTMAX--1"}) {
    EXPECT_EQ(ParseSignal(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(SignalsTest, EveryCriSignalHasALinuxNumberAndComesBack) {
  for (int value = v1::Signal_MIN; value <= v1::Signal_MAX; ++value) {
    if (value == v1::SIGNAL_RUNTIME_DEFAULT) continue;
    const std::optional<int> number = SignalFromCri(value);
    ASSERT_TRUE(number.has_value()) << v1::Signal_Name(value);
    EXPECT_EQ(SignalFromCri(SignalToCri(*number)), number) << v1::Signal_Name(value);
  }
  EXPECT_EQ(SignalFromCri(v1::SIGNAL_SIGKILL), SIGKILL);
  EXPECT_EQ(SignalFromCri(v1::SIGNAL_SIGRTMINPLUS15), 49);
  EXPECT_EQ(SignalFromCri(v1::SIGNAL_SIGRTMAXMINUS14), 50);
  EXPECT_EQ(SignalFromCri(v1::SIGNAL_SIGRTMAX), 64);
  EXPECT_EQ(SignalToCri(SIGTERM), v1::SIGNAL_SIGTERM);
  EXPECT_EQ(SignalToCri(SIGCHLD), v1::SIGNAL_SIGCHLD);
  EXPECT_FALSE(SignalFromCri(v1::SIGNAL_RUNTIME_DEFAULT).has_value());
  EXPECT_FALSE(SignalFromCri(999).has_value());
  EXPECT_EQ(SignalToCri(0), v1::SIGNAL_RUNTIME_DEFAULT);
}

}  // namespace
}  // namespace davit::cri
