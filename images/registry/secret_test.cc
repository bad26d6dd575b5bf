#include "images/registry/secret.h"

#include <gtest/gtest.h>

#include "absl/strings/escaping.h"

namespace davit::images {
namespace {

const Reference kHub = *ParseReference("busybox");

TEST(SecretTest, TakesTheFirstFormThatIsGiven) {
  Credentials credentials;
  credentials.registry_token = "t";
  EXPECT_EQ(SecretFor(credentials, kHub).registry_token, "t");
  credentials.auth = absl::Base64Escape(std::string("u:p:q\0\0", 7));
  EXPECT_EQ(SecretFor(credentials, kHub).username, "u");
  EXPECT_EQ(SecretFor(credentials, kHub).password, "p:q");
  credentials.identity_token = "i";
  EXPECT_EQ(SecretFor(credentials, kHub).identity_token, "i");
  EXPECT_EQ(SecretFor(credentials, kHub).username, "");
  credentials.username = "user";
  credentials.password = "pass";
  EXPECT_EQ(SecretFor(credentials, kHub).BasicHeader(), "Basic dXNlcjpwYXNz");
  EXPECT_EQ(SecretFor(credentials, kHub).identity_token, "");
  EXPECT_TRUE(SecretFor(std::nullopt, kHub).empty());
}

TEST(SecretTest, IsNotUsedForAnotherHost) {
  Credentials credentials;
  credentials.username = "u";
  for (const char* address :
       {"https://index.docker.io/v1/", "docker.io", "", "registry-1.docker.io"}) {
    credentials.server_address = address;
    EXPECT_FALSE(SecretFor(credentials, kHub).empty()) << address;
  }
  for (const char* address : {"quay.io", "https://evil.example/docker.io", "docker.io:8443"}) {
    credentials.server_address = address;
    EXPECT_TRUE(SecretFor(credentials, kHub).empty()) << address;
  }
}

TEST(SecretTest, FingerprintsTellSecretsApartWithoutHoldingThem) {
  Secret a, b;
  a.username = "ab";
  a.password = "c";
  b.username = "a";
  b.password = "bc";
  EXPECT_NE(a.Fingerprint(), b.Fingerprint());
  EXPECT_EQ(Secret().Fingerprint(), "");
}

}  // namespace
}  // namespace davit::images
