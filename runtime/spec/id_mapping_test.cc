#include "runtime/spec/id_mapping.h"

#include "gtest/gtest.h"

namespace davit::runtime::spec {
namespace {

TEST(IdMappingTest, AHostIdIsFoundByTheRangeThatHoldsTheContainersId) {
  const std::vector<IdMapping> maps = {{0, 1000, 10}, {10, 5000, 5}};
  EXPECT_EQ(HostId(maps, 0), 1000u);
  EXPECT_EQ(HostId(maps, 9), 1009u);
  EXPECT_EQ(HostId(maps, 10), 5000u);
  EXPECT_EQ(HostId(maps, 15), std::nullopt);
}

TEST(IdMappingTest, TheTextIsWhatTheKernelReads) {
  EXPECT_EQ(MapText({{0, 1000, 10}, {10, 5000, 5}}), "0 1000 10\n10 5000 5\n");
}

TEST(IdMappingTest, SoundMappingsAreAccepted) {
  EXPECT_TRUE(CheckMappings({{0, 1000, 65536}}).ok());
  EXPECT_TRUE(CheckMappings({{0, 1000, 10}, {10, 1010, 10}}).ok()) << "side by side";
  EXPECT_TRUE(CheckMappings({{0, 0, 0xffffffff}}).ok()) << "all there are";
}

TEST(IdMappingTest, MappingsThatOverlapOnEitherSideAreRefusedWithBothOfThem) {
  const absl::Status container = CheckMappings({{0, 1000, 10}, {9, 5000, 10}});
  EXPECT_TRUE(absl::IsInvalidArgument(container));
  EXPECT_NE(container.message().find("mappings 0 (container ids from 0"), absl::string_view::npos)
      << container;
  EXPECT_FALSE(CheckMappings({{0, 1000, 10}, {10, 1009, 10}}).ok()) << "on the host's side";
}

TEST(IdMappingTest, EmptyListsLengthsAndIdsThatDoNotExistAreRefused) {
  EXPECT_FALSE(CheckMappings({}).ok());
  EXPECT_FALSE(CheckMappings({{0, 1000, 0}}).ok());
  EXPECT_FALSE(CheckMappings({{0, 0xfffffff0, 100}}).ok());
  EXPECT_FALSE(CheckMappings({{0xfffffff0, 0, 100}}).ok());
  EXPECT_FALSE(CheckMappings({{1, 0, 0xffffffff}}).ok()) << "the id that means none";
  EXPECT_FALSE(CheckMappings(std::vector<IdMapping>(341)).ok());
}

TEST(IdMappingTest, EqualListsAreTheSame) {
  EXPECT_TRUE(SameMappings({{0, 1, 2}}, {{0, 1, 2}}));
  EXPECT_FALSE(SameMappings({{0, 1, 2}}, {{0, 1, 3}}));
  EXPECT_FALSE(SameMappings({{0, 1, 2}}, {}));
}

}  // namespace
}  // namespace davit::runtime::spec
