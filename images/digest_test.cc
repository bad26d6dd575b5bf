#include "images/digest.h"

#include <gtest/gtest.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace davit::images {
namespace {

constexpr char kEmptySha256[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

TEST(DigestTest, AcceptsLowercaseSha256AndSha512) {
  const auto digest = Digest::Parse(absl::StrCat("sha256:", kEmptySha256));
  ASSERT_TRUE(digest.ok()) << digest.status();
  EXPECT_EQ(digest->ToString(), absl::StrCat("sha256:", kEmptySha256));
  EXPECT_TRUE(Digest::Parse(absl::StrCat("sha512:", std::string(128, 'a'))).ok());
}

TEST(DigestTest, RefusesWhatCouldLeaveADirectoryOrCompareUnequal) {
  for (const std::string& text :
       {std::string(), std::string("sha256"), std::string("sha256:"),
        absl::StrCat("sha256:", std::string(63, 'a')),
        absl::StrCat("sha256:", std::string(65, 'a')),
        absl::AsciiStrToUpper(absl::StrCat("sha256:", kEmptySha256)),
        absl::StrCat("sha256:", std::string(62, 'A'), "aa"),
        absl::StrCat("sha256:../", std::string(61, 'a')), std::string("sha256:../../etc/passwd"),
        absl::StrCat("sha256:", std::string(63, 'a'), "g"), absl::StrCat("../x:", kEmptySha256)}) {
    EXPECT_EQ(Digest::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(DigestTest, AnUnknownAlgorithmIsWellFormedButUnsupported) {
  EXPECT_EQ(Digest::Parse("blake3:abcdef").status().code(), absl::StatusCode::kUnimplemented);
}

TEST(DigestTest, HashesAStreamLikeTheWhole) {
  Hasher hasher(Digest::Algorithm::kSha256);
  hasher.Update("ab", 2);
  hasher.Update("c", 1);
  EXPECT_EQ(hasher.Finish().hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Hasher::Hash(Digest::Algorithm::kSha256, "").hex(), kEmptySha256);
}

TEST(DigestTest, TheChainIdOfTheLowestLayerIsItsDiffId) {
  EXPECT_EQ(NextChainId("", "sha256:aa"), "sha256:aa");
  EXPECT_EQ(NextChainId("sha256:aa", "sha256:bb"),
            Hasher::Hash(Digest::Algorithm::kSha256, "sha256:aa sha256:bb").ToString());
}

}  // namespace
}  // namespace davit::images
