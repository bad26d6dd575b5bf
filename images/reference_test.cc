#include "images/reference.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace davit::images {
namespace {

const std::string kHex(64, 'a');

TEST(ReferenceTest, NormalisesFamiliarNames) {
  struct Case {
    std::string text, repository, tagged;
  };
  for (const Case& c : std::vector<Case>{
           {"busybox", "docker.io/library/busybox", "docker.io/library/busybox:latest"},
           {"busybox:1.36", "docker.io/library/busybox", "docker.io/library/busybox:1.36"},
           {"library/busybox", "docker.io/library/busybox", "docker.io/library/busybox:latest"},
           {"grafana/loki", "docker.io/grafana/loki", "docker.io/grafana/loki:latest"},
           {"docker.io/busybox", "docker.io/library/busybox", "docker.io/library/busybox:latest"},
           {"index.docker.io/a/b", "docker.io/a/b", "docker.io/a/b:latest"},
           {"localhost/x", "localhost/x", "localhost/x:latest"},
           {"localhost:5000/x", "localhost:5000/x", "localhost:5000/x:latest"},
           {"registry.k8s.io/pause:3.9", "registry.k8s.io/pause", "registry.k8s.io/pause:3.9"},
           {"127.0.0.1:5000/a/b_c/d-e__f.g:T_1.x-", "127.0.0.1:5000/a/b_c/d-e__f.g",
            "127.0.0.1:5000/a/b_c/d-e__f.g:T_1.x-"},
           {"[::1]:5000/x", "[::1]:5000/x", "[::1]:5000/x:latest"},
           {"HOST/x", "HOST/x", "HOST/x:latest"},
           {"a---b", "docker.io/library/a---b", "docker.io/library/a---b:latest"}}) {
    const auto reference = ParseReference(c.text);
    ASSERT_TRUE(reference.ok()) << reference.status();
    EXPECT_EQ(reference->Repository(), c.repository);
    EXPECT_EQ(reference->Tagged(), c.tagged);
  }
}

TEST(ReferenceTest, ADigestWinsOverATag) {
  const auto reference = ParseReference(absl::StrCat("busybox:1.36@sha256:", kHex));
  ASSERT_TRUE(reference.ok());
  EXPECT_EQ(reference->Tagged(), "");
  EXPECT_EQ(reference->tag, "1.36");
  EXPECT_EQ(reference->ManifestKey(), absl::StrCat("sha256:", kHex));
  EXPECT_EQ(reference->WithDigest(reference->digest),
            absl::StrCat("docker.io/library/busybox@sha256:", kHex));
}

TEST(ReferenceTest, DockerHubIsAskedAtItsApiHost) {
  EXPECT_EQ(ParseReference("busybox")->ApiHost(), "registry-1.docker.io");
  EXPECT_EQ(ParseReference("quay.io/a/b")->ApiHost(), "quay.io");
}

TEST(ReferenceTest, RefusesWhatTheGrammarForbids) {
  for (const std::string& text : {std::string(),
                                  std::string(":tag"),
                                  std::string("/x"),
                                  std::string("x/"),
                                  std::string("a//b"),
                                  std::string("Busybox"),
                                  std::string("a/B"),
                                  std::string("a/../b"),
                                  std::string("../b"),
                                  std::string("a..b"),
                                  std::string("-a"),
                                  std::string("a-"),
                                  std::string("a___b"),
                                  std::string("a_-b"),
                                  std::string("x:"),
                                  std::string("x:-tag"),
                                  absl::StrCat("x:", std::string(129, 'a')),
                                  std::string("x@sha256:abc"),
                                  std::string("x@md5"),
                                  std::string("host:0/x"),
                                  std::string("host:99999/x"),
                                  std::string("host:12ab/x"),
                                  std::string("-host.io/x"),
                                  std::string("host..io/x"),
                                  std::string("x y"),
                                  std::string("x?y"),
                                  std::string("http://host/x"),
                                  kHex,
                                  std::string("x\n"),
                                  absl::StrCat("host.io/", std::string(250, 'a'))}) {
    EXPECT_EQ(ParseReference(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ReferenceTest, RecognisesIdsAndTheirPrefixes) {
  EXPECT_EQ(IdDigits(absl::StrCat("sha256:", kHex), 4), kHex);
  EXPECT_EQ(IdDigits("sha256:abcd", 4), "abcd");
  EXPECT_EQ(IdDigits("abcd", 4), "abcd");
  EXPECT_EQ(IdDigits("abc", 4), "");
  EXPECT_EQ(IdDigits("abcg", 4), "");
  EXPECT_EQ(IdDigits("ABCD", 4), "");
}

}  // namespace
}  // namespace davit::images
