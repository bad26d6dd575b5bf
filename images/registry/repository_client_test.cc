#include "images/registry/repository_client.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/document/media_type.h"
#include "images/testing/fake_registry.h"

namespace davit::images {
namespace {

using testing::FakeRegistry;
using testing::FakeReply;
using testing::FakeRequest;

class RepositoryClientTest : public ::testing::Test {
 protected:
  RepositoryClientTest() {
    context_.retry.base = absl::Milliseconds(1);
    context_.retry.cap = absl::Milliseconds(5);
    context_.http.stall_timeout = absl::Milliseconds(400);
    for (size_t i = 0; i < 700'000; ++i) blob_.push_back(static_cast<char>('a' + i * 7 % 26));
    descriptor_.digest = registry_.PutBlob(blob_);
    descriptor_.size = blob_.size();
  }

  std::unique_ptr<RepositoryClient> Client(std::map<std::string, RegistryOptions> registries = {}) {
    auto reference = ParseReference(absl::StrCat(registry_.host(), "/a/b:1"));
    return *RepositoryClient::Create(
        &context_, std::make_shared<const HostSettings>(std::move(registries)), *reference, {});
  }

  absl::Status Fetch(RepositoryClient& client, std::string* out) {
    return client.FetchBlob(
        descriptor_,
        [out](absl::string_view data) {
          out->append(data.data(), data.size());
          return absl::OkStatus();
        },
        cancel_);
  }

  // Answers the first `times` requests for the blob with what `reply` makes of the true bytes.
  void BreakBlob(int times, const std::function<FakeReply(FakeReply)>& reply) {
    auto left = std::make_shared<std::atomic<int>>(times);
    registry_.SetHook([this, left, reply](const FakeRequest& request) -> std::optional<FakeReply> {
      if (!absl::StrContains(request.path, "/blobs/") || left->fetch_sub(1) <= 0) return {};
      FakeReply stored;
      stored.body = blob_;
      return reply(stored);
    });
  }

  FakeRegistry registry_;
  RegistryContext context_;
  CancelToken cancel_;
  std::string blob_;
  Descriptor descriptor_;
};

TEST_F(RepositoryClientTest, FetchesAManifestByTagAndByDigestWithAnExplicitAccept) {
  const Digest digest = registry_.PutManifest("a/b", "1", kOciManifestType, "{}");
  const auto client = Client();
  const auto by_tag = client->FetchManifest("1", cancel_);
  ASSERT_TRUE(by_tag.ok()) << by_tag.status();
  EXPECT_EQ(by_tag->bytes, "{}");
  EXPECT_EQ(by_tag->digest, digest);
  EXPECT_EQ(by_tag->media_type, kOciManifestType);
  EXPECT_TRUE(client->FetchManifest(digest.ToString(), cancel_).ok());
  const FakeRequest request = registry_.requests()[0];
  EXPECT_TRUE(absl::StrContains(request.Header("accept"), kDockerIndexType));
  EXPECT_EQ(request.Header("accept-encoding"), "");
}

TEST_F(RepositoryClientTest, AManifestWithAnotherDigestIsDataLoss) {
  const Digest digest = registry_.PutManifest("a/b", "1", kOciManifestType, "{}");
  registry_.SetHook([](const FakeRequest&) {
    FakeReply reply;
    reply.body = "{ }";
    return reply;
  });
  EXPECT_TRUE(absl::IsDataLoss(Client()->FetchManifest(digest.ToString(), cancel_).status()));
  registry_.SetHook([&](const FakeRequest&) {
    FakeReply reply;
    reply.headers = {{"Docker-Content-Digest", digest.ToString()}};
    reply.body = "{ }";
    return reply;
  });
  EXPECT_TRUE(absl::IsDataLoss(Client()->FetchManifest("1", cancel_).status()));
}

TEST_F(RepositoryClientTest, AHugeManifestIsRefusedBeforeItIsRead) {
  FakeReply huge;
  huge.announced_length = size_t{1} << 40;
  huge.send_only = 0;
  huge.then_stall = true;
  registry_.SetHook([&](const FakeRequest&) { return huge; });
  const absl::Status announced = Client()->FetchManifest("1", cancel_).status();
  EXPECT_EQ(announced.code(), absl::StatusCode::kUnavailable) << announced;  // nothing was sent

  FakeReply endless;
  endless.chunked = true;
  endless.body = std::string(kMaxManifestBytes + 1, ' ');
  registry_.SetHook([&](const FakeRequest&) { return endless; });
  const absl::Status status = Client()->FetchManifest("1", cancel_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
}

TEST_F(RepositoryClientTest, MapsAnswersToCodes) {
  for (const auto& [http, code] : std::vector<std::pair<int, absl::StatusCode>>{
           {401, absl::StatusCode::kUnauthenticated},
           {403, absl::StatusCode::kPermissionDenied},
           {404, absl::StatusCode::kNotFound},
           {429, absl::StatusCode::kUnavailable},
           {500, absl::StatusCode::kUnavailable},
           {503, absl::StatusCode::kUnavailable},
           {400, absl::StatusCode::kFailedPrecondition}}) {
    FakeReply reply;
    reply.status = http;
    reply.body = R"({"errors":[{"code":"DENIED","message":"no \n way"}]})";
    registry_.SetHook([&](const FakeRequest&) { return reply; });
    const absl::Status status = Client()->FetchManifest("1", cancel_).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_TRUE(absl::StrContains(status.message(), "DENIED: no \\n way")) << status;
  }
}

TEST_F(RepositoryClientTest, ARegistryThatIsDownIsUnavailable) {
  auto client = *RepositoryClient::Create(
      &context_, std::make_shared<const HostSettings>(std::map<std::string, RegistryOptions>()),
      *ParseReference("127.0.0.1:1/a/b:1"), {});
  const absl::Status status = client->FetchManifest("1", cancel_).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "127.0.0.1:1")) << status;
}

TEST_F(RepositoryClientTest, RetriesWhatMayPass) {
  registry_.PutManifest("a/b", "1", kOciManifestType, "{}");
  std::atomic<int> failures{2};
  registry_.SetHook([&](const FakeRequest&) -> std::optional<FakeReply> {
    if (failures.fetch_sub(1) <= 0) return {};
    FakeReply reply;
    reply.status = 502;
    return reply;
  });
  EXPECT_TRUE(Client()->FetchManifest("1", cancel_).ok());
  EXPECT_EQ(registry_.CountRequests("manifests"), 3);
}

TEST_F(RepositoryClientTest, WaitsAsLongAsRetryAfterSays) {
  registry_.PutManifest("a/b", "1", kOciManifestType, "{}");
  std::atomic<int> failures{1};
  registry_.SetHook([&](const FakeRequest&) -> std::optional<FakeReply> {
    if (failures.fetch_sub(1) <= 0) return {};
    FakeReply reply;
    reply.status = 429;
    reply.headers = {{"Retry-After", "1"}};
    return reply;
  });
  const absl::Time start = absl::Now();
  EXPECT_TRUE(Client()->FetchManifest("1", cancel_).ok());
  EXPECT_GE(absl::Now() - start, absl::Seconds(1));
}

TEST_F(RepositoryClientTest, ABlobArrivesWholeAndVerified) {
  std::string got;
  EXPECT_TRUE(Fetch(*Client(), &got).ok());
  EXPECT_EQ(got, blob_);
}

TEST_F(RepositoryClientTest, ABrokenTransferGoesOnWhereItStopped) {
  BreakBlob(2, [](FakeReply reply) {
    reply.send_only = 200'000;
    return reply;
  });
  std::string got;
  ASSERT_TRUE(Fetch(*Client(), &got).ok());
  EXPECT_EQ(got, blob_);
  EXPECT_EQ(registry_.requests().at(1).Header("range"), "bytes=200000-");
}

TEST_F(RepositoryClientTest, ATransferThatBreaksAfterItsLastByteIsComplete) {
  BreakBlob(1, [this](FakeReply reply) {
    reply.chunked = true;
    reply.send_only = blob_.size();  // and no end mark
    return reply;
  });
  std::string got;
  const absl::Status status = Fetch(*Client(), &got);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(got, blob_);
  EXPECT_EQ(registry_.CountRequests("/blobs/"), 1);
}

TEST_F(RepositoryClientTest, AnIgnoredRangeIsDiscarded) {
  BreakBlob(2, [](FakeReply reply) {  // the second answer is a whole 200 again
    reply.send_only = 300'000;
    return reply;
  });
  std::string got;
  ASSERT_TRUE(Fetch(*Client(), &got).ok());
  EXPECT_EQ(got, blob_);
}

TEST_F(RepositoryClientTest, AWrongContentRangeIsNotBelieved) {
  std::atomic<int> count{0};
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    FakeReply reply;
    reply.body = blob_;
    switch (count++) {
      case 0:
        reply.send_only = 100'000;
        return reply;
      case 1:
        reply.status = 206;
        reply.headers = {{"Content-Range", "bytes 5-699999/700000"}};
        reply.body.erase(0, 5);
        return reply;
      default:
        return {};
    }
  });
  std::string got;
  ASSERT_TRUE(Fetch(*Client(), &got).ok());
  EXPECT_EQ(got, blob_);
}

TEST_F(RepositoryClientTest, AStalledTransferIsGivenUpAndResumed) {
  BreakBlob(1, [](FakeReply reply) {
    reply.send_only = 100'000;
    reply.then_stall = true;
    return reply;
  });
  std::string got;
  ASSERT_TRUE(Fetch(*Client(), &got).ok());
  EXPECT_EQ(got, blob_);
}

TEST_F(RepositoryClientTest, ASlowTransferThatMakesProgressIsLeftAlone) {
  BreakBlob(1, [](FakeReply reply) {
    reply.piece = 50'000;
    reply.pause = absl::Milliseconds(60);  // longer in sum than the stall time
    return reply;
  });
  std::string got;
  ASSERT_TRUE(Fetch(*Client(), &got).ok());
  EXPECT_EQ(registry_.CountRequests("blobs"), 1);
}

TEST_F(RepositoryClientTest, ATransferThatNeverProgressesEnds) {
  BreakBlob(1000, [](FakeReply reply) {
    reply.send_only = 1;
    return reply;
  });
  std::string got;
  EXPECT_TRUE(absl::IsUnavailable(Fetch(*Client(), &got)));
  EXPECT_EQ(registry_.CountRequests("blobs"), context_.retry.blob_attempts);
}

TEST_F(RepositoryClientTest, WrongBytesAreDataLoss) {
  BreakBlob(1, [](FakeReply reply) {
    reply.body[12345] ^= 1;
    return reply;
  });
  std::string got;
  const absl::Status status = Fetch(*Client(), &got);
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), descriptor_.digest.ToString())) << status;
}

TEST_F(RepositoryClientTest, ASizeThatLiesIsDataLossBeforeTheBodyIsRead) {
  BreakBlob(1, [](FakeReply reply) {
    reply.body += "x";
    return reply;
  });
  std::string got;
  EXPECT_TRUE(absl::IsDataLoss(Fetch(*Client(), &got)));
  EXPECT_EQ(got, "");
  BreakBlob(1, [](FakeReply reply) {
    reply.body += "x";
    reply.chunked = true;
    return reply;
  });
  EXPECT_TRUE(absl::IsDataLoss(Fetch(*Client(), &got)));
}

TEST_F(RepositoryClientTest, AContentEncodingThatNobodyAskedForIsRefused) {
  BreakBlob(1, [](FakeReply reply) {
    reply.headers = {{"Content-Encoding", "gzip"}};
    return reply;
  });
  std::string got;
  EXPECT_TRUE(absl::IsFailedPrecondition(Fetch(*Client(), &got)));
}

TEST_F(RepositoryClientTest, TheWritersErrorEndsTheFetchAsItIs) {
  const absl::Status status = Client()->FetchBlob(
      descriptor_, [](absl::string_view) { return absl::ResourceExhaustedError("full"); }, cancel_);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(registry_.CountRequests("blobs"), 1);
}

TEST_F(RepositoryClientTest, ACancelledFetchEnds) {
  BreakBlob(1, [this](FakeReply reply) {
    cancel_.CancelForever();
    reply.send_only = 10;
    reply.then_stall = true;
    return reply;
  });
  std::string got;
  EXPECT_TRUE(absl::IsCancelled(Fetch(*Client(), &got)));
}

TEST_F(RepositoryClientTest, MirrorsAreAskedInOrderBeforeTheRegistry) {
  FakeRegistry down, mirror;
  mirror.PutManifest("a/b", "1", kOciManifestType, "{}");
  mirror.PutBlob(blob_);
  RegistryOptions options;
  options.mirrors = {"http://127.0.0.1:1", down.url(), mirror.url()};
  const auto client = Client({{registry_.host(), options}});
  ASSERT_TRUE(client->FetchManifest("1", cancel_).ok());
  std::string got;
  ASSERT_TRUE(Fetch(*client, &got).ok());
  EXPECT_EQ(registry_.requests().size(), 0u);
  EXPECT_EQ(down.CountRequests("blobs"), 0);  // the mirror that had the manifest comes first
}

TEST_F(RepositoryClientTest, TheRegistryIsAskedWhenNoMirrorHasIt) {
  FakeRegistry mirror;
  registry_.PutManifest("a/b", "1", kOciManifestType, "{}");
  RegistryOptions options;
  options.mirrors = {mirror.url()};
  EXPECT_TRUE(Client({{registry_.host(), options}})->FetchManifest("1", cancel_).ok());
  const absl::Status missing =
      Client({{registry_.host(), options}})->FetchManifest("2", cancel_).status();
  EXPECT_TRUE(absl::IsNotFound(missing)) << missing;
}

TEST_F(RepositoryClientTest, AMirrorThatLiesCannotMakeABlobUnpullable) {
  FakeRegistry mirror;
  mirror.SetHook([&](const FakeRequest&) {
    FakeReply reply;
    reply.body = std::string(blob_.size(), 'x');
    return reply;
  });
  RegistryOptions options;
  options.mirrors = {mirror.url()};
  const auto client = Client({{registry_.host(), options}});
  std::string got;
  EXPECT_TRUE(absl::IsAborted(Fetch(*client, &got)));
  got.clear();
  EXPECT_TRUE(Fetch(*client, &got).ok());
  EXPECT_EQ(got, blob_);
  EXPECT_TRUE(client->FetchSmallBlob(descriptor_, 1 << 20, cancel_).ok());
}

TEST_F(RepositoryClientTest, AnEmptyBlobNeedsNoRequest) {
  descriptor_.digest = Hasher::Hash(Digest::Algorithm::kSha256, "");
  descriptor_.size = 0;
  std::string got;
  EXPECT_TRUE(Fetch(*Client(), &got).ok());
  EXPECT_TRUE(registry_.requests().empty());
}

}  // namespace
}  // namespace davit::images
