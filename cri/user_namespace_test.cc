#include "cri/user_namespace.h"

#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;

struct Map {
  uint32_t container;
  uint32_t host;
  uint32_t length;
};

v1::NamespaceOption Options(v1::NamespaceMode mode, const std::vector<Map>& uids,
                            const std::vector<Map>& gids) {
  v1::NamespaceOption options;
  v1::UserNamespace* userns = options.mutable_userns_options();
  userns->set_mode(mode);
  const auto add = [](const std::vector<Map>& maps, auto* to) {
    for (const Map& map : maps) {
      v1::IDMapping* added = to->Add();
      added->set_container_id(map.container);
      added->set_host_id(map.host);
      added->set_length(map.length);
    }
  };
  add(uids, userns->mutable_uids());
  add(gids, userns->mutable_gids());
  return options;
}

v1::NamespaceOption Pod(const std::vector<Map>& maps) { return Options(v1::POD, maps, maps); }

TEST(UserNamespaceTest, WithoutOptionsOrWithModeNodeThereIsNone) {
  const auto nothing = TranslateUserNamespace(v1::NamespaceOption());
  ASSERT_TRUE(nothing.ok());
  EXPECT_TRUE(nothing->uids.empty());
  const auto node = TranslateUserNamespace(Options(v1::NODE, {}, {}));
  ASSERT_TRUE(node.ok());
  EXPECT_TRUE(node->uids.empty());
  EXPECT_FALSE(TranslateUserNamespace(Options(v1::NODE, {{0, 1000, 10}}, {})).ok());
}

TEST(UserNamespaceTest, OneMappingFromZeroIsTaken) {
  const auto found = TranslateUserNamespace(Pod({{0, 100000, 65536}}));
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_EQ(found->uids.size(), 1u);
  EXPECT_EQ(found->uids[0].host_id, 100000u);
  EXPECT_EQ(found->gids[0].size, 65536u);
}

TEST(UserNamespaceTest, ModesThatNoPodCanHaveAreRefused) {
  EXPECT_FALSE(TranslateUserNamespace(Options(v1::CONTAINER, {}, {})).ok());
  EXPECT_FALSE(TranslateUserNamespace(Options(v1::TARGET, {}, {})).ok());
}

TEST(UserNamespaceTest, AnyOtherMappingIsRefusedWithItsReason) {
  const std::vector<std::pair<v1::NamespaceOption, const char*>> cases = {
      {Pod({}), "not exactly one"},
      {Pod({{0, 1000, 10}, {10, 2000, 10}}), "not exactly one"},
      {Pod({{0, 1000, 10}, {5, 2000, 10}}), "not exactly one"},
      {Pod({{1, 1000, 10}}), "container id 0"},
      {Pod({{0, 1000, 0}}), "no length"},
      {Pod({{0, 4294967000u, 65536}}), "highest id"},
      {Options(v1::POD, {{0, 1000, 10}}, {{0, 1000, 11}}), "differ"},
  };
  for (const auto& [options, why] : cases) {
    const auto result = TranslateUserNamespace(options);
    EXPECT_TRUE(absl::IsInvalidArgument(result.status())) << why;
    EXPECT_NE(result.status().message().find(why), absl::string_view::npos) << result.status();
  }
}

TEST(UserNamespaceTest, AContainerRepeatsItsPodsOrSaysNothing) {
  const v1::NamespaceOption pod = Pod({{0, 1000, 10}});
  EXPECT_TRUE(CheckContainerUserNamespace(v1::NamespaceOption(), pod).ok());
  EXPECT_TRUE(CheckContainerUserNamespace(pod, pod).ok());
  EXPECT_FALSE(CheckContainerUserNamespace(Pod({{0, 1001, 10}}), pod).ok());
  EXPECT_FALSE(CheckContainerUserNamespace(Options(v1::NODE, {}, {}), pod).ok());
  EXPECT_FALSE(CheckContainerUserNamespace(pod, v1::NamespaceOption()).ok());
}

TEST(UserNamespaceTest, MappingsOfAMountThatOverlapAreRefused) {
  const v1::NamespaceOption two = Pod({{0, 1000, 10}, {5, 2000, 10}});
  EXPECT_TRUE(absl::IsInvalidArgument(TranslateMappings(two.userns_options().uids()).status()));
}

}  // namespace
}  // namespace davit::cri
