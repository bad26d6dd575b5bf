#include "sandbox/ids.h"

#include <set>

#include "gtest/gtest.h"

namespace davit::sandbox {
namespace {

TEST(IdsTest, ANewIdHasTheFormOfAnIdAndNeverRepeats) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = NewId();
    EXPECT_TRUE(IsId(id)) << id;
    EXPECT_TRUE(seen.insert(id).second) << id;
  }
}

TEST(IdsTest, WhatCouldLeaveADirectoryIsNotAnId) {
  EXPECT_FALSE(IsId(""));
  EXPECT_FALSE(IsId(".."));
  EXPECT_FALSE(IsId(std::string(63, 'a')));
  EXPECT_FALSE(IsId(std::string(65, 'a')));
  EXPECT_FALSE(IsId(std::string(64, 'A')));
  EXPECT_FALSE(IsId(std::string(63, 'a') + "/"));
  EXPECT_TRUE(IsId(std::string(64, 'a')));
}

class IdMapTest : public ::testing::Test {
 protected:
  IdMapTest() {
    map_.Insert("aabb", 1);
    map_.Insert("aacc", 2);
    map_.Insert("aaccdd", 3);
    map_.Insert("b", 4);
  }
  IdMap<int> map_{"pod"};
};

TEST_F(IdMapTest, AUniquePrefixFindsItsObject) {
  EXPECT_EQ(*map_.Resolve("aab"), 1);
  EXPECT_EQ(*map_.Resolve("aabb"), 1);
  EXPECT_EQ(*map_.Resolve("b"), 4);
}

TEST_F(IdMapTest, AWholeIdWinsOverAnotherThatItBegins) { EXPECT_EQ(*map_.Resolve("aacc"), 2); }

TEST_F(IdMapTest, AnAmbiguousPrefixIsRefusedAndNamesTwoCandidates) {
  const auto found = map_.Resolve("aa");
  EXPECT_EQ(found.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(found.status().message().find("aabb"), absl::string_view::npos);
}

TEST_F(IdMapTest, AnUnknownOrEmptyPrefixIsAnError) {
  EXPECT_EQ(map_.Resolve("ac").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(map_.Resolve("zz").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(map_.Resolve("").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(IdMapTest, GetTakesNoPrefix) {
  EXPECT_EQ(map_.Get("aab"), std::nullopt);
  EXPECT_EQ(map_.Get("aabb"), 1);
}

TEST_F(IdMapTest, AnErasedObjectIsGone) {
  map_.Erase("b");
  EXPECT_FALSE(map_.Get("b").has_value());
  EXPECT_EQ(map_.Values(), (std::vector<int>{1, 2, 3}));
}

}  // namespace
}  // namespace davit::sandbox
