#include "cri/user_lookup.h"

#include "gtest/gtest.h"

namespace davit::cri {
namespace {

constexpr char kPasswd[] =
    "root:x:0:0:root:/root:/bin/sh\n"
    "# a comment: with: colons: in: it\n"
    "broken\n"
    "huge:x:4294967296:0::/:\n"
    "www-data:x:33:33::/var/www:\n"
    "default-user:x:1000:1000::/home/default-user:/bin/sh\n"
    "1000:x:0:0::/evil:\n"
    "short:x:7:8";
constexpr char kGroup[] =
    "root:x:0:\n"
    "www-data:x:33:\n"
    "default-user:x:1000:\n"
    "group-defined-in-image:x:50000:default-user,other\n"
    "bad:x:999999999999:default-user\n"
    "extra:x:60:www-data\n";

using Groups = std::vector<uint32_t>;

ResolvedUser Resolve(const UserRequest& request) {
  const auto user = ResolveUser(request, kPasswd, kGroup);
  EXPECT_TRUE(user.ok()) << user.status();
  return user.value_or(ResolvedUser{12345, 12345, {}, "?"});
}

TEST(UserLookupTest, NobodyAskedForIsRoot) {
  const ResolvedUser user = Resolve({});
  EXPECT_EQ(user.uid, 0u);
  EXPECT_EQ(user.gid, 0u);
  EXPECT_EQ(user.groups, Groups{0});
  EXPECT_EQ(user.home, "/root");
}

TEST(UserLookupTest, TheImagesUserInAllItsForms) {
  struct {
    const char* image_user;
    uint32_t uid, gid;
    Groups groups;
  } const cases[] = {
      {"1002", 1002, 0, {0}},
      {"www-data", 33, 33, {33, 60}},
      {"1003:1004", 1003, 1004, {1004}},
      {"www-data:1004", 33, 1004, {1004, 60}},
      {"33:root", 33, 0, {0, 60}},
      {"1000", 1000, 1000, {1000, 50000}},
      {"short", 7, 8, {8}},
      {"0:", 0, 0, {0}},
  };
  for (const auto& c : cases) {
    UserRequest request;
    request.image_user = c.image_user;
    const ResolvedUser user = Resolve(request);
    EXPECT_EQ(user.uid, c.uid) << c.image_user;
    EXPECT_EQ(user.gid, c.gid) << c.image_user;
    EXPECT_EQ(user.groups, c.groups) << c.image_user;
  }
}

TEST(UserLookupTest, TheRequestWinsOverTheImageAndTheNameOverTheId) {
  UserRequest request;
  request.image_user = "www-data";
  request.run_as_user = 1000;
  EXPECT_EQ(Resolve(request).uid, 1000u);
  EXPECT_EQ(Resolve(request).home, "/home/default-user");
  request.run_as_username = "root";
  EXPECT_EQ(Resolve(request).uid, 0u);
}

TEST(UserLookupTest, SupplementalGroupsMergeWithTheImagesOrReplaceThem) {
  UserRequest request;
  request.run_as_user = 1000;
  request.supplemental_groups = {1234, 1000};
  EXPECT_EQ(Resolve(request).groups, (Groups{1000, 50000, 1234}));
  request.strict_groups = true;
  EXPECT_EQ(Resolve(request).groups, (Groups{1000, 1234}));
}

TEST(UserLookupTest, DigitsAreNeverAName) {
  UserRequest request;
  request.run_as_username = "1000";
  EXPECT_EQ(Resolve(request).uid, 1000u);
}

TEST(UserLookupTest, BadRequestsAreInvalid) {
  const auto code = [](const UserRequest& request) {
    return ResolveUser(request, kPasswd, kGroup).status().code();
  };
  UserRequest group_only;
  group_only.run_as_group = 5;
  EXPECT_EQ(code(group_only), absl::StatusCode::kInvalidArgument);
  group_only.image_user = "www-data";
  EXPECT_EQ(code(group_only), absl::StatusCode::kInvalidArgument);

  for (const char* image_user : {"nosuchuser", "0:nosuchgroup", "4294967296", "2147483648",
                                 "99999999999999999999", "-1", "0:4294967296", "huge"}) {
    UserRequest request;
    request.image_user = image_user;
    EXPECT_EQ(code(request), absl::StatusCode::kInvalidArgument) << image_user;
  }
  UserRequest negative;
  negative.run_as_user = -1;
  EXPECT_EQ(code(negative), absl::StatusCode::kInvalidArgument);
  UserRequest big_group;
  big_group.supplemental_groups = {int64_t{1} << 32};
  EXPECT_EQ(code(big_group), absl::StatusCode::kInvalidArgument);
}

TEST(UserLookupTest, AnImageWithoutThoseFilesHasIdsOnly) {
  UserRequest request;
  request.run_as_user = 5;
  request.run_as_group = 6;
  const auto user = ResolveUser(request, "", "");
  ASSERT_TRUE(user.ok());
  EXPECT_EQ(user->uid, 5u);
  EXPECT_EQ(user->gid, 6u);
  EXPECT_EQ(user->home, "/");
  request.run_as_username = "root";
  EXPECT_FALSE(ResolveUser(request, "", "").ok());
}

}  // namespace
}  // namespace davit::cri
