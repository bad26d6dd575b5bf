#include "cri/metadata.h"

#include "gtest/gtest.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

TEST(MetadataTest, APodsConfigurationComesBackAsItWas) {
  v1::PodSandboxConfig config;
  config.mutable_metadata()->set_name("web");
  (*config.mutable_labels())["a"] = "b";
  const PodMetadata metadata(config);
  const auto back = Codec().parse_pod(metadata.Serialize());
  ASSERT_TRUE(back.ok());
  sandbox::PodView view;
  view.metadata = *back;
  EXPECT_EQ(PodMetadata::Of(view).config().SerializeAsString(), config.SerializeAsString());
}

TEST(MetadataTest, AContainersConfigurationAndUserComeBackAsTheyWere) {
  v1::ContainerConfig config;
  config.mutable_metadata()->set_name("app");
  auto* env = config.add_envs();
  env->set_key("A");
  env->set_value("\xff\xfe");
  const ContainerMetadata metadata(config, {1000, 33, {33, 50000}});
  const auto back = Codec().parse_container(metadata.Serialize());
  ASSERT_TRUE(back.ok());
  sandbox::ContainerView view;
  view.metadata = *back;
  const ContainerMetadata& of = ContainerMetadata::Of(view);
  EXPECT_EQ(of.config().envs(0).value(), "\xff\xfe");
  EXPECT_EQ(of.user().uid, 1000);
  EXPECT_EQ(of.user().gid, 33);
  EXPECT_EQ(of.user().groups, (std::vector<int64_t>{33, 50000}));
}

TEST(MetadataTest, DamagedBytesAreAnErrorAndAMissingOneIsEmpty) {
  EXPECT_EQ(Codec().parse_pod("\x0a\xff").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Codec().parse_container("\x0a\xff").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(PodMetadata::Of(sandbox::PodView()).config().metadata().name(), "");
}

}  // namespace
}  // namespace davit::cri
