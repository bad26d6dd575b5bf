#include "cri/grpc_status.h"

#include "gtest/gtest.h"

namespace davit::cri {
namespace {

TEST(GrpcStatusTest, TheCodeIsAbslsOwn) {
  const WireStatus wire = ToWire(absl::NotFoundError("container x: no such container"));
  EXPECT_EQ(wire.code, 5);
  EXPECT_EQ(wire.message, "container x: no such container");
}

TEST(GrpcStatusTest, APrefixThatTheKubeletParsesTravelsAsUnknownAndBare) {
  const WireStatus wire = ToWire(absl::UnavailableError("RegistryUnavailable: connection refused"));
  EXPECT_EQ(wire.code, 2);
  EXPECT_EQ(wire.message, "RegistryUnavailable: connection refused");
  EXPECT_EQ(ToWire(absl::UnavailableError("busy: RegistryUnavailable")).code, 14);
}

TEST(GrpcStatusTest, ALongMessageIsCut) {
  EXPECT_EQ(ToWire(absl::InternalError(std::string(100000, 'x'))).message.size(), 4096u);
}

TEST(GrpcStatusTest, AMessageIsUtf8WhateverPathItQuotes) {
  EXPECT_EQ(ToWire(absl::InternalError("open /a\xff")).message, "open /a\xef\xbf\xbd");
  const std::string long_message =
      ToWire(absl::InternalError("x" + std::string(5000, '\xc3'))).message;
  EXPECT_LE(long_message.size(), 4096u);
  EXPECT_EQ(long_message.substr(long_message.size() - 3), "\xef\xbf\xbd");
}

}  // namespace
}  // namespace davit::cri
