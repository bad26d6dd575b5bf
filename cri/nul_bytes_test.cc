#include "cri/nul_bytes.h"

#include <string>

#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

const std::string kWithNul("a\0b", 3);

TEST(NulBytesTest, AreFoundAtAnyDepthAndNamed) {
  v1::ContainerConfig config;
  config.mutable_metadata()->set_name("app");
  config.add_args("x");
  config.mutable_linux()->mutable_security_context()->add_masked_paths("/proc/kcore");
  EXPECT_TRUE(CheckNoNulBytes(config, "config").ok());

  config.mutable_linux()->mutable_security_context()->add_masked_paths(kWithNul);
  const absl::Status status = CheckNoNulBytes(config, "config");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "config.linux.security_context.masked_paths[1] contains a NUL byte");
}

TEST(NulBytesTest, AreFoundInKeysAndValuesOfMaps) {
  v1::ContainerConfig config;
  (*config.mutable_annotations())["key"] = kWithNul;
  EXPECT_EQ(CheckNoNulBytes(config, "config").message(),
            "config.annotations[0].value contains a NUL byte");
  config.clear_annotations();
  (*config.mutable_annotations())[kWithNul] = "value";
  EXPECT_EQ(CheckNoNulBytes(config, "config").message(),
            "config.annotations[0].key contains a NUL byte");
}

}  // namespace
}  // namespace davit::cri
