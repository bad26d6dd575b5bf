#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/document/media_type.h"
#include "images/registry/repository_client.h"
#include "images/testing/fake_registry.h"

namespace davit::images {
namespace {

using testing::FakeRegistry;
using testing::FakeReply;
using testing::FakeRequest;

FakeReply Unauthorized(const std::string& challenge) {
  FakeReply reply;
  reply.status = 401;
  if (!challenge.empty()) reply.headers = {{"WWW-Authenticate", challenge}};
  return reply;
}

FakeReply Json(const std::string& body) {
  FakeReply reply;
  reply.body = body;
  return reply;
}

class RegistryAuthTest : public ::testing::Test {
 protected:
  RegistryAuthTest() {
    context_.retry.base = absl::Milliseconds(1);
    context_.retry.cap = absl::Milliseconds(5);
    registry_.PutManifest("a/b", "1", kOciManifestType, "{}");
    blob_.digest = registry_.PutBlob("content");
    blob_.size = 7;
    user_.username = "user";
    user_.password = "pa ss";
    // A registry that wants the bearer token `good_`, and its token service on the same port.
    registry_.SetHook([this](const FakeRequest& request) -> std::optional<FakeReply> {
      if (request.path == "/token") {
        ++tokens_;
        return token_reply_(request);
      }
      if (request.Header("authorization") == absl::StrCat("Bearer ", good_)) return {};
      return Unauthorized(absl::StrCat("Bearer realm=\"", registry_.url(),
                                       "/token\",service=\"svc\",scope=\"repository:a/b:pull\""));
    });
    token_reply_ = [this](const FakeRequest&) {
      return Json(absl::StrCat(R"({"token":")", good_, R"(","expires_in":300})"));
    };
  }

  std::unique_ptr<RepositoryClient> Client(Secret secret,
                                           std::map<std::string, RegistryOptions> settings = {}) {
    return *RepositoryClient::Create(
        &context_, std::make_shared<const HostSettings>(std::move(settings)),
        *ParseReference(absl::StrCat(registry_.host(), "/a/b:1")), std::move(secret));
  }

  absl::Status Pull(Secret secret) {
    return Client(std::move(secret))->FetchManifest("1", cancel_).status();
  }

  FakeRegistry registry_;
  RegistryContext context_;
  CancelToken cancel_;
  Descriptor blob_;
  Secret user_;
  std::string good_ = "t0k3n";
  std::atomic<int> tokens_{0};
  std::function<FakeReply(const FakeRequest&)> token_reply_;
};

TEST_F(RegistryAuthTest, GetsAnAnonymousTokenAndKeepsItForTheNextRequests) {
  const auto client = Client({});
  ASSERT_TRUE(client->FetchManifest("1", cancel_).ok());
  EXPECT_TRUE(client->FetchSmallBlob(blob_, 100, cancel_).ok());
  EXPECT_TRUE(Client({})->FetchManifest("1", cancel_).ok());
  EXPECT_EQ(tokens_, 1);
  const FakeRequest request = registry_.requests()[1];
  EXPECT_EQ(request.path, "/token");
  EXPECT_EQ(request.query, "service=svc&scope=repository%3Aa%2Fb%3Apull");
  EXPECT_EQ(request.Header("authorization"), "");
}

TEST_F(RegistryAuthTest, SendsUserAndPasswordToTheTokenServiceOnly) {
  ASSERT_TRUE(Pull(user_).ok());
  for (const FakeRequest& request : registry_.requests()) {
    EXPECT_EQ(request.Header("authorization") == user_.BasicHeader(), request.path == "/token");
  }
}

TEST_F(RegistryAuthTest, TokensAreNeverSharedBetweenCredentials) {
  ASSERT_TRUE(Pull(user_).ok());
  Secret other = user_;
  other.password = "x";
  ASSERT_TRUE(Pull(other).ok());
  ASSERT_TRUE(Pull({}).ok());
  EXPECT_EQ(tokens_, 3);
}

TEST_F(RegistryAuthTest, ExchangesAnIdentityTokenByPost) {
  Secret secret;
  secret.identity_token = "refresh&me";
  token_reply_ = [this](const FakeRequest& request) {
    if (request.method != "POST") return Unauthorized("");
    EXPECT_TRUE(absl::StrContains(request.body, "grant_type=refresh_token"));
    EXPECT_TRUE(absl::StrContains(request.body, "refresh_token=refresh%26me"));
    EXPECT_EQ(request.Header("content-type"), "application/x-www-form-urlencoded");
    return Json(absl::StrCat(R"({"access_token":")", good_, R"("})"));
  };
  EXPECT_TRUE(Pull(secret).ok());
}

TEST_F(RegistryAuthTest, FallsBackToPostWhereTheTokenServiceKnowsNoGet) {
  token_reply_ = [this](const FakeRequest& request) {
    FakeReply reply;
    reply.status = 405;
    if (request.method != "POST") return reply;
    EXPECT_TRUE(absl::StrContains(request.body, "grant_type=password"));
    EXPECT_TRUE(absl::StrContains(request.body, "password=pa%20ss"));
    return Json(absl::StrCat(R"({"access_token":")", good_, R"("})"));
  };
  EXPECT_TRUE(Pull(user_).ok());
}

TEST_F(RegistryAuthTest, SendsARegistryTokenAsItIs) {
  Secret secret;
  secret.registry_token = good_;
  EXPECT_TRUE(Pull(secret).ok());
  EXPECT_EQ(tokens_, 0);
  secret.registry_token = "stale";
  EXPECT_TRUE(absl::IsUnauthenticated(Pull(secret)));
}

TEST_F(RegistryAuthTest, RenewsATokenThatRanOutInTheMiddleOfAPull) {
  const auto client = Client(user_);
  ASSERT_TRUE(client->FetchManifest("1", cancel_).ok());
  good_ = "second";
  EXPECT_TRUE(client->FetchSmallBlob(blob_, 100, cancel_).ok());
  EXPECT_EQ(tokens_, 2);
}

TEST_F(RegistryAuthTest, RefusedCredentialsAreAnErrorWithoutTheirText) {
  for (const int http : {400, 401, 403}) {
    token_reply_ = [http](const FakeRequest&) {
      FakeReply reply;
      reply.status = http;
      return reply;
    };
    const absl::Status status = Pull(user_);
    EXPECT_EQ(status.code(), http == 403 ? absl::StatusCode::kPermissionDenied
                                         : absl::StatusCode::kUnauthenticated)
        << status;
    EXPECT_FALSE(absl::StrContains(status.ToString(), "pa ss"));
    EXPECT_FALSE(absl::StrContains(status.ToString(), "scope="));
  }
}

TEST_F(RegistryAuthTest, ARegistryThatRefusesEveryTokenEnds) {
  token_reply_ = [](const FakeRequest&) { return Json(R"({"token":"bad"})"); };
  EXPECT_TRUE(absl::IsUnauthenticated(Pull(user_)));
  EXPECT_LE(tokens_, 3);
}

TEST_F(RegistryAuthTest, AnAnswerWithoutATokenOrTooLongIsRefused) {
  token_reply_ = [](const FakeRequest&) { return Json("{}"); };
  EXPECT_TRUE(absl::IsFailedPrecondition(Pull(user_)));
  token_reply_ = [](const FakeRequest&) { return Json(std::string(2 << 20, ' ')); };
  EXPECT_TRUE(absl::IsFailedPrecondition(Pull(user_)));
}

TEST_F(RegistryAuthTest, AnswersABasicChallenge) {
  registry_.SetHook([this](const FakeRequest& request) -> std::optional<FakeReply> {
    if (request.Header("authorization") == user_.BasicHeader()) return {};
    return Unauthorized("basic Realm=\"x\"");
  });
  EXPECT_TRUE(Pull(user_).ok());
  EXPECT_TRUE(absl::IsUnauthenticated(Pull({})));
  Secret wrong = user_;
  wrong.password = "no";
  EXPECT_TRUE(absl::IsUnauthenticated(Pull(wrong)));
}

TEST_F(RegistryAuthTest, CredentialsDoNotFollowARedirectToAnotherOrigin) {
  FakeRegistry storage;
  storage.SetHook([](const FakeRequest&) { return Json("content"); });
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    if (request.Header("authorization") != user_.BasicHeader()) return Unauthorized("Basic");
    FakeReply reply;
    reply.status = 307;
    reply.headers = {{"Location", absl::StrCat(storage.url(), "/blob?signature=s3cret")}};
    return reply;
  });
  EXPECT_TRUE(Client(user_)->FetchSmallBlob(blob_, 100, cancel_).ok());
  ASSERT_EQ(storage.requests().size(), 1u);
  EXPECT_EQ(storage.requests()[0].Header("authorization"), "");
  EXPECT_EQ(storage.requests()[0].query, "signature=s3cret");

  storage.SetHook([](const FakeRequest&) {
    FakeReply reply;
    reply.status = 400;
    return reply;
  });
  const absl::Status failed = Client(user_)->FetchSmallBlob(blob_, 100, cancel_).status();
  EXPECT_FALSE(absl::StrContains(failed.ToString(), "s3cret")) << failed;
}

TEST_F(RegistryAuthTest, CredentialsStayWithARedirectWithinTheOriginButDoNotComeBack) {
  FakeRegistry other;
  other.SetHook([this](const FakeRequest&) {
    FakeReply reply;
    reply.status = 302;
    reply.headers = {{"Location", absl::StrCat(registry_.url(), "/back")}};
    return reply;
  });
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    FakeReply reply;
    if (request.path == "/back") return Json("content");
    if (request.Header("authorization") != user_.BasicHeader()) return Unauthorized("Basic");
    reply.status = 302;
    reply.headers = {
        {"Location", request.path == "/near" ? absl::StrCat(other.url(), "/x") : "/near"}};
    return reply;
  });
  EXPECT_TRUE(Client(user_)->FetchSmallBlob(blob_, 100, cancel_).ok());
  EXPECT_EQ(registry_.requests().back().path, "/back");
  EXPECT_EQ(registry_.requests().back().Header("authorization"), "");
}

TEST_F(RegistryAuthTest, ARedirectLoopOrAForbiddenSchemeEnds) {
  std::string location = "/loop";
  registry_.SetHook([&](const FakeRequest&) {
    FakeReply reply;
    reply.status = 302;
    reply.headers = {{"Location", location}};
    return reply;
  });
  EXPECT_TRUE(absl::IsFailedPrecondition(Pull({})));
  EXPECT_EQ(registry_.requests().size(), 11u);
  for (const char* target : {"file:///etc/passwd", "http://10.255.255.1/x"}) {
    location = target;
    EXPECT_TRUE(absl::IsFailedPrecondition(Pull({}))) << target;
  }
}

TEST_F(RegistryAuthTest, ATokenServiceOnPlainHttpElsewhereNeverSeesACredential) {
  registry_.SetHook([](const FakeRequest&) {
    return Unauthorized("Bearer realm=\"http://10.255.255.1/token\",service=\"svc\"");
  });
  Secret identity;
  identity.identity_token = "refresh";
  for (const Secret& secret : {user_, identity}) {
    const absl::Status status = Pull(secret);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  }
}

TEST_F(RegistryAuthTest, AMirrorOnAnotherHostGetsNoCredentials) {
  FakeRegistry mirror;
  mirror.SetHook([&](const FakeRequest&) { return Unauthorized("Basic realm=\"x\""); });
  RegistryOptions options;
  options.mirrors = {mirror.url()};
  EXPECT_TRUE(Client(user_, {{registry_.host(), options}})->FetchManifest("1", cancel_).ok());
  for (const FakeRequest& request : mirror.requests()) {
    EXPECT_EQ(request.Header("authorization"), "");
  }
  EXPECT_FALSE(mirror.requests().empty());
}

}  // namespace
}  // namespace davit::images
