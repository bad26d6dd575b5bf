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

}  // namespace
}  // namespace davit::cri
