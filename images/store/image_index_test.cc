#include "images/store/image_index.h"

#include <gtest/gtest.h>

namespace davit::images {
namespace {

const std::string kA = "sha256:aaaa" + std::string(60, '0');
const std::string kB = "sha256:aaab" + std::string(60, '0');
const std::string kDigest = "sha256:" + std::string(64, 'd');

Image Named(const std::string& id, std::vector<std::string> tags,
            std::vector<std::string> digests = {}) {
  Image image;
  image.id = id;
  image.repo_tags = std::move(tags);
  image.repo_digests = std::move(digests);
  return image;
}

TEST(ImageIndexTest, FindsAnImageByEveryFormOfItsNames) {
  ImageIndex index;
  index.Put(
      Named(kA, {"docker.io/library/busybox:latest"}, {"docker.io/library/busybox@" + kDigest}));
  for (const std::string& form :
       {std::string("busybox"), std::string("busybox:latest"), std::string("docker.io/busybox"),
        "busybox@" + kDigest, "busybox:whatever@" + kDigest, kA, kA.substr(7), kA.substr(7, 4),
        kA.substr(0, 11)}) {
    ASSERT_NE(index.Find(form), nullptr) << form;
    EXPECT_EQ(index.Find(form)->id, kA);
  }
  for (const std::string form : {"busybox:1", "aaa", "sha256:", "", "quay.io/busybox", "aaab"}) {
    EXPECT_EQ(index.Find(form), nullptr) << form;
  }
}

TEST(ImageIndexTest, FindsAnImageWhoseIdIsOfAnotherAlgorithm) {
  ImageIndex index;
  const std::string id = "sha512:" + std::string(128, 'a');
  index.Put(Named(id, {}));
  ASSERT_NE(index.Find(id), nullptr);
}

TEST(ImageIndexTest, AnAmbiguousPrefixFindsNothing) {
  ImageIndex index;
  index.Put(Named("sha256:abcd1" + std::string(59, '0'), {}));
  index.Put(Named("sha256:abcd2" + std::string(59, '0'), {}));
  EXPECT_EQ(index.Find("abcd"), nullptr);
  EXPECT_NE(index.Find("abcd1"), nullptr);
}

TEST(ImageIndexTest, ANameThatLooksLikeAPrefixIsAName) {
  ImageIndex index;
  index.Put(Named(kA, {}));
  index.Put(Named(kB, {"docker.io/library/aaaa:latest"}));
  EXPECT_EQ(index.Find("aaaa")->id, kB);
}

TEST(ImageIndexTest, ANameMovesAndOldCopiesStayAsTheyWere) {
  ImageIndex index;
  index.Put(Named(kA, {"x.io/n:1"}, {"x.io/n@" + kDigest}));
  const ImageIndex before = index;
  index.Put(Named(kB, {"x.io/n:1"}));
  EXPECT_EQ(index.Find("x.io/n:1")->id, kB);
  EXPECT_TRUE(index.Find(kA)->repo_tags.empty());
  EXPECT_EQ(index.Find("x.io/n@" + kDigest)->id, kA);
  EXPECT_EQ(before.Find("x.io/n:1")->id, kA);
  EXPECT_EQ(before.Find(kA)->repo_tags.size(), 1u);
  index.Remove(kB);
  EXPECT_EQ(index.Find("x.io/n:1"), nullptr);
  EXPECT_EQ(index.List().size(), 1u);
}

}  // namespace
}  // namespace davit::images
