#include "images/registry/challenge.h"

#include <gtest/gtest.h>

namespace davit::images {
namespace {

TEST(ChallengeTest, ReadsABearerChallengeWithCommasInsideQuotes) {
  const auto list = ParseChallenges(
      R"(Bearer realm="https://auth.example/token",service="reg,istry",scope="repository:a/b:pull,push")");
  ASSERT_EQ(list.size(), 1u);
  EXPECT_EQ(list[0].scheme, "bearer");
  EXPECT_EQ(list[0].params.at("realm"), "https://auth.example/token");
  EXPECT_EQ(list[0].params.at("service"), "reg,istry");
  EXPECT_EQ(list[0].params.at("scope"), "repository:a/b:pull,push");
}

TEST(ChallengeTest, SeparatesSeveralChallenges) {
  const auto list =
      ParseChallenges(R"(Basic realm="x", BEARER Realm=https://a/t , service = s,error="y \"z\"")");
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0].scheme, "basic");
  EXPECT_EQ(list[0].params.at("realm"), "x");
  EXPECT_EQ(list[1].scheme, "bearer");
  EXPECT_EQ(list[1].params.at("realm"), "https://a/t");
  EXPECT_EQ(list[1].params.at("service"), "s");
  EXPECT_EQ(list[1].params.at("error"), "y \"z\"");
}

TEST(ChallengeTest, SurvivesMalformedHeaders) {
  EXPECT_TRUE(ParseChallenges("").empty());
  EXPECT_TRUE(ParseChallenges(",, ,").empty());
  EXPECT_TRUE(ParseChallenges("=x").empty());
  EXPECT_TRUE(ParseChallenges("realm=\"x\"").empty());
  ASSERT_EQ(ParseChallenges("Basic").size(), 1u);
  ASSERT_EQ(ParseChallenges("Bearer realm=\"never closed").size(), 1u);
  EXPECT_TRUE(ParseChallenges("Bearer realm=\"never closed")[0].params.empty());
  EXPECT_EQ(ParseChallenges("Bearer a=\"1\",a=\"2\"")[0].params.at("a"), "1");
}

}  // namespace
}  // namespace davit::images
