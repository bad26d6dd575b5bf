#include "images/unpack/layer_path.h"

#include <gtest/gtest.h>

#include <string>

namespace davit::images::unpack {
namespace {

TEST(LayerPath, CleansNames) {
  const std::pair<const char*, const char*> kCases[] = {
      {"a", "a"},        {"./a/b", "a/b"},
      {"/a//b/", "a/b"}, {"", ""},
      {"./", ""},        {"/", ""},
      {"a/../b", "b"},   {"a/b/../..", ""},
      {"a/./b", "a/b"},  {"///etc/x", "etc/x"},
      {"...", "..."},    {"a/..b", "a/..b"},
  };
  for (const auto& [name, want] : kCases) {
    const auto clean = CleanLayerPath(name, 100);
    ASSERT_TRUE(clean.ok()) << name << ": " << clean.status();
    EXPECT_EQ(*clean, want) << name;
  }
}

TEST(LayerPath, RefusesNamesThatLeaveTheRoot) {
  for (const char* name :
       {"..", "../x", "a/../../x", "/..", "/../etc/passwd", "./../x", "a/b/../../../c"}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(CleanLayerPath(name, 100).status())) << name;
  }
}

TEST(LayerPath, BoundsLengthDepthAndBytes) {
  EXPECT_TRUE(CleanLayerPath(std::string(255, 'a'), 100).ok());
  EXPECT_FALSE(CleanLayerPath(std::string(256, 'a'), 100).ok());
  std::string deep = "a";
  for (int i = 1; i < 10; ++i) deep += "/a";
  EXPECT_TRUE(CleanLayerPath(deep, 10).ok());
  EXPECT_FALSE(CleanLayerPath(deep + "/a", 10).ok());
  EXPECT_TRUE(CleanLayerPath(deep + "/a/..", 11).ok());
  EXPECT_FALSE(CleanLayerPath(std::string("a\0b", 3), 10).ok());
  std::string wide;
  for (int i = 0; i < 17; ++i) wide += std::string(250, 'w') + "/";
  EXPECT_FALSE(CleanLayerPath(wide, 100).ok());
}

TEST(LayerPath, ChecksThatAPathIsCleanAlready) {
  EXPECT_TRUE(CheckCleanPath("a/b", 10).ok());
  EXPECT_TRUE(CheckCleanPath("", 10).ok());
  for (const char* path : {"/a", "a/", "a//b", "./a", "a/../b", "..", "a/.."}) {
    EXPECT_TRUE(absl::IsInvalidArgument(CheckCleanPath(path, 10))) << path;
  }
}

TEST(LayerPath, SplitsAndJoins) {
  EXPECT_EQ(ParentOf("a/b/c"), "a/b");
  EXPECT_EQ(ParentOf("a"), "");
  EXPECT_EQ(NameOf("a/b/c"), "c");
  EXPECT_EQ(NameOf("a"), "a");
  EXPECT_EQ(JoinPath("", "a"), "a");
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
}

}  // namespace
}  // namespace davit::images::unpack
