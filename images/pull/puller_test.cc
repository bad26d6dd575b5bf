#include "images/pull/puller.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/document/media_type.h"
#include "images/testing/event.h"
#include "images/testing/fake_registry.h"
#include "images/testing/temp_dir.h"
#include "images/testing/test_image.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

using testing::Exists;
using testing::FakeRegistry;
using testing::FakeReply;
using testing::FakeRequest;
using testing::MakeImage;
using testing::Names;
using testing::PutImage;
using testing::ReadTestFile;
using testing::TarBuilder;
using testing::TempDir;
using testing::TestImage;

// One pull under way.
struct Pending {
  testing::Event done;
  absl::StatusOr<std::string> result = absl::UnknownError("not called back");
  std::unique_ptr<PullTicket> ticket;

  absl::StatusOr<std::string> Wait() {
    if (!done.Wait()) std::abort();
    return result;
  }
};

// Pulls with the real davit-unpack from registries on loopback.
class PullerTest : public ::testing::Test {
 protected:
  PullerTest() {
    options_.retry.base = absl::Milliseconds(1);
    options_.retry.cap = absl::Milliseconds(5);
    options_.http.stall_timeout = absl::Seconds(2);
    options_.pull.host = {"linux", "amd64", "v3", {}};
    options_.pull.layer.unpacker = &unpack::StartUnpackProcess;
    const std::string helper =
        absl::StrCat(std::getenv("TEST_SRCDIR"), "/", std::getenv("TEST_WORKSPACE"),
                     "/images/unpack/davit-unpack");
    helper_ = *sys::OpenAt(AT_FDCWD, helper, O_RDONLY);
    options_.pull.layer.helper_fd = helper_.get();
    OpenStore();
  }

  void OpenStore() {
    puller_.reset();
    store_.reset();
    store_ = *ImageStore::Open(dir_.path("store"), {});
    puller_ =
        std::make_unique<Puller>(store_.get(), options_, std::map<std::string, RegistryOptions>());
  }

  std::string Ref(const std::string& rest) const {
    return absl::StrCat(registry_.host(), "/", rest);
  }

  std::unique_ptr<Pending> Start(const std::string& reference,
                                 std::optional<Credentials> credentials = {}) {
    auto pending = std::make_unique<Pending>();
    PullRequest request;
    request.reference = reference;
    request.credentials = std::move(credentials);
    pending->ticket = puller_->Pull(request, [raw = pending.get()](auto result) {
      raw->result = std::move(result);
      raw->done.Notify();
    });
    return pending;
  }
  absl::StatusOr<std::string> Pull(const std::string& reference) {
    return Start(reference)->Wait();
  }

  std::string LayerDir(const std::string& id, size_t from_top) {
    return (*store_->PinLayers(id))->lower_dirs().at(from_top);
  }

  // Fails unless the pull fails with `code`, says `text`, and leaves nothing.
  void ExpectFailure(const std::string& reference, absl::StatusCode code, const std::string& text) {
    const auto result = Pull(reference);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.status().code(), code) << result.status();
    EXPECT_TRUE(absl::StrContains(result.status().message(), text)) << result.status();
    ExpectNothingLeft();
  }
  void ExpectNothingLeft() {
    store_->WaitForJanitor();
    EXPECT_TRUE(store_->List().empty());
    const std::string root = dir_.path("store");
    EXPECT_EQ(Names(root + "/staging"), "");
    EXPECT_EQ(Names(root + "/trash"), "");
    EXPECT_EQ(Names(root + "/layers"), "0");
    EXPECT_EQ(Names(root + "/layer-index"), "");
    EXPECT_EQ(Names(root + "/oci/blobs/sha256"), "");
  }

  TempDir dir_;
  FakeRegistry registry_;
  sys::UniqueFd helper_;
  PullerOptions options_;
  std::unique_ptr<ImageStore> store_;
  std::unique_ptr<Puller> puller_;
};

const std::string kTar = TarBuilder().Dir("bin").File("bin/sh", "#!", 0755).Done();

TEST_F(PullerTest, PullsAnImageByTagAndShowsIt) {
  const TestImage image = MakeImage({kTar, TarBuilder().File("etc", "x").Done()});
  PutImage(&registry_, "a/b", "1", image);
  const auto id = Pull(Ref("a/b:1"));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, image.id());
  const auto found = store_->Find(Ref("a/b:1"));
  ASSERT_NE(found, nullptr);
  EXPECT_EQ(found->id, image.id());
  EXPECT_EQ(found->repo_tags, std::vector<std::string>{Ref("a/b:1")});
  EXPECT_EQ(found->repo_digests, std::vector<std::string>{Ref("a/b@" + image.manifest_digest())});
  EXPECT_EQ(found->config_json, image.config);
  EXPECT_EQ(found->diff_ids.size(), 2u);
  EXPECT_GT(found->size, 0u);
  EXPECT_EQ(ReadTestFile(LayerDir(*id, 1) + "/bin/sh"), "#!");
  EXPECT_EQ(ReadTestFile(LayerDir(*id, 0) + "/etc"), "x");
  for (const std::string& form :
       {image.id(), image.id().substr(7), image.id().substr(7, 12),
        Ref("a/b@" + image.manifest_digest()), Ref("a/b:1@" + image.manifest_digest())}) {
    EXPECT_NE(store_->Find(form), nullptr) << form;
  }
  EXPECT_EQ(store_->Find(Ref("a/b:2")), nullptr);
}

TEST_F(PullerTest, PullsDockerTypesAndPlainLayersByDigest) {
  for (const bool docker : {true, false}) {
    testing::TestImageOptions options;
    options.docker_types = docker;
    options.compress = docker;
    const TestImage image = MakeImage({kTar}, options);
    PutImage(&registry_, "a", "", image);
    const auto id = Pull(Ref("a@" + image.manifest_digest()));
    ASSERT_TRUE(id.ok()) << id.status();
    EXPECT_TRUE(store_->Find(*id)->repo_tags.empty());
  }
}

TEST_F(PullerTest, ChoosesThePlatformOfAnIndexAndRemembersTheIndex) {
  const TestImage image = MakeImage({kTar});
  PutImage(&registry_, "a", "", image);
  const Digest index =
      registry_.PutManifest("a", "multi", kOciIndexType, testing::MakeIndex(image));
  const auto id = Pull(Ref("a:multi"));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, image.id());
  EXPECT_EQ(store_->Find(*id)->repo_digests,
            std::vector<std::string>{Ref("a@" + index.ToString())});
  EXPECT_EQ(store_->Find(*id)->manifest_digest, image.manifest_digest());
}

TEST_F(PullerTest, AMovedTagLeavesTheOldImageWithItsDigest) {
  const TestImage old_image = MakeImage({kTar});
  const TestImage new_image = MakeImage({TarBuilder().File("new", "").Done()});
  PutImage(&registry_, "a", "1", old_image);
  ASSERT_TRUE(Pull(Ref("a:1")).ok());
  PutImage(&registry_, "a", "1", new_image);
  ASSERT_TRUE(Pull(Ref("a:1")).ok());
  EXPECT_EQ(store_->Find(Ref("a:1"))->id, new_image.id());
  EXPECT_TRUE(store_->Find(old_image.id())->repo_tags.empty());
  EXPECT_EQ(store_->Find(old_image.id())->repo_digests.size(), 1u);
  OpenStore();
  EXPECT_EQ(store_->Find(Ref("a:1"))->id, new_image.id());
  EXPECT_EQ(store_->List().size(), 2u);
}

TEST_F(PullerTest, TheSameImageFromTwoRegistriesIsOneWithBothNames) {
  FakeRegistry other;
  const TestImage image = MakeImage({kTar});
  PutImage(&registry_, "a", "1", image);
  PutImage(&other, "z", "9", image);
  ASSERT_TRUE(Pull(Ref("a:1")).ok());
  const auto id = Pull(other.host() + "/z:9");
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(store_->List().size(), 1u);
  EXPECT_EQ(store_->Find(*id)->repo_tags.size(), 2u);
  EXPECT_EQ(store_->Find(*id)->repo_digests.size(), 2u);
  ASSERT_TRUE(store_->Remove(Ref("a:1")).ok());
  EXPECT_EQ(store_->Find(other.host() + "/z:9"), nullptr);
}

TEST_F(PullerTest, EveryPullAsksForTheManifestButFetchesNoLayerTwice) {
  const TestImage image = MakeImage({kTar});
  PutImage(&registry_, "a", "1", image);
  ASSERT_TRUE(Pull(Ref("a:1")).ok());
  ASSERT_TRUE(Pull(Ref("a:1")).ok());
  EXPECT_EQ(registry_.CountRequests("/manifests/"), 2);
  EXPECT_EQ(registry_.CountRequests("/blobs/"), 2);  // config and layer, once

  const TestImage sibling = MakeImage({kTar, TarBuilder().File("more", "").Done()});
  PutImage(&registry_, "a", "2", sibling);
  ASSERT_TRUE(Pull(Ref("a:2")).ok());
  EXPECT_EQ(registry_.CountRequests("/blobs/"), 4);  // config and the upper layer
  EXPECT_EQ(LayerDir(sibling.id(), 1), LayerDir(image.id(), 0));
}

TEST_F(PullerTest, WhoMayNotReadTheManifestGetsNothingThoughTheImageIsHere) {
  PutImage(&registry_, "a", "1", MakeImage({kTar}));
  ASSERT_TRUE(Pull(Ref("a:1")).ok());
  registry_.SetHook([](const FakeRequest&) {
    FakeReply reply;
    reply.status = 403;
    return reply;
  });
  EXPECT_TRUE(absl::IsPermissionDenied(Pull(Ref("a:1")).status()));
  EXPECT_NE(store_->Find(Ref("a:1")), nullptr);
}

TEST_F(PullerTest, IdenticalPullsInFlightShareOneJob) {
  const TestImage image = MakeImage({kTar});
  PutImage(&registry_, "a", "1", image);
  PutImage(&registry_, "a", "2", image);
  testing::Event go;
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    if (absl::StrContains(request.path, "/blobs/")) go.Wait();
    return {};
  });
  std::vector<std::unique_ptr<Pending>> pulls;
  for (int i = 0; i < 6; ++i) pulls.push_back(Start(Ref(i % 2 == 0 ? "a:1" : "a:2")));
  while (registry_.CountRequests("/manifests/") < 6) absl::SleepFor(absl::Milliseconds(2));
  go.Notify();
  for (const auto& pull : pulls) EXPECT_EQ(*pull->Wait(), image.id());
  EXPECT_EQ(registry_.CountRequests("/blobs/"), 2);
  EXPECT_EQ(store_->Find(image.id())->repo_tags.size(), 2u);
}

TEST_F(PullerTest, TwoPullsThatNeedTheSameLayerMakeItOnce) {
  FakeRegistry other;
  const TestImage image = MakeImage({kTar});
  const TestImage sibling = MakeImage({kTar, TarBuilder().File("more", "").Done()});
  PutImage(&registry_, "a", "1", image);
  PutImage(&other, "b", "1", sibling);
  std::atomic<bool> base_asked{false};
  testing::Event go;
  const Digest base = Hasher::Hash(Digest::Algorithm::kSha256, image.layers[0].blob);
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    if (!absl::StrContains(request.path, base.hex())) return {};
    base_asked = true;
    go.Wait();
    return {};
  });
  const auto first = Start(Ref("a:1"));
  while (!base_asked) absl::SleepFor(absl::Milliseconds(2));
  const auto second = Start(other.host() + "/b:1");
  while (other.CountRequests("/blobs/") < 2) absl::SleepFor(absl::Milliseconds(2));
  go.Notify();
  ASSERT_TRUE(first->Wait().ok());
  ASSERT_TRUE(second->Wait().ok()) << second->result.status();
  EXPECT_EQ(other.CountRequests(base.hex()), 0);
}

TEST_F(PullerTest, ACancelledCallEndsAtOnceAndItsRetryJoinsTheJob) {
  const TestImage image = MakeImage({kTar});
  PutImage(&registry_, "a", "1", image);
  testing::Event go;
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    if (absl::StrContains(request.path, "/blobs/")) go.Wait();
    return {};
  });
  const auto first = Start(Ref("a:1"));
  while (registry_.CountRequests("/blobs/") < 1) absl::SleepFor(absl::Milliseconds(2));
  first->ticket->Cancel();
  EXPECT_TRUE(absl::IsCancelled(first->Wait().status()));
  const auto second = Start(Ref("a:1"));
  while (registry_.CountRequests("/manifests/") < 2) absl::SleepFor(absl::Milliseconds(2));
  go.Notify();
  EXPECT_TRUE(second->Wait().ok());
  EXPECT_EQ(registry_.CountRequests("/blobs/"), 2);
}

TEST_F(PullerTest, APullThatNobodyWaitsForEndsAfterTheGraceTimeAndLeavesNothing) {
  options_.grace = absl::Milliseconds(50);
  OpenStore();
  PutImage(&registry_, "a", "1", MakeImage({kTar}));
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    if (!absl::StrContains(request.path, "/blobs/")) return {};
    FakeReply stall;
    stall.body = "x";
    stall.send_only = 1;
    stall.then_stall = true;
    return stall;
  });
  const auto pull = Start(Ref("a:1"));
  while (registry_.CountRequests("/blobs/") < 1) absl::SleepFor(absl::Milliseconds(2));
  pull->ticket->Cancel();
  EXPECT_TRUE(absl::IsCancelled(pull->Wait().status()));
  puller_.reset();  // waits for the job, which would otherwise go on for the stall time
  ExpectNothingLeft();
}

TEST_F(PullerTest, ZeroLayersRepeatedLayersAndEmptyBlobsAreImagesToo) {
  const TestImage none = MakeImage({});
  PutImage(&registry_, "a", "none", none);
  ASSERT_TRUE(Pull(Ref("a:none")).ok());
  EXPECT_GT(store_->Find(none.id())->size, 0u);
  EXPECT_EQ(Names(LayerDir(none.id(), 0)), "");

  const TestImage twice = MakeImage({kTar, TarBuilder().File("x", "").Done(), kTar});
  PutImage(&registry_, "a", "twice", twice);
  const auto id = Pull(Ref("a:twice"));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(store_->Find(*id)->diff_ids.size(), 3u);
  const auto pin = *store_->PinLayers(*id);
  // overlayfs answers ELOOP to a layer that is stacked twice.
  ASSERT_EQ(pin->lower_dirs().size(), 2u);
  EXPECT_NE(pin->lower_dirs()[0], pin->lower_dirs()[1]);
  EXPECT_TRUE(Exists(pin->lower_dirs()[1] + "/x"));

  TestImage empty = MakeImage({""});
  empty.layers[0].blob.clear();
  testing::RebuildManifest(&empty);
  PutImage(&registry_, "a", "empty", empty);
  const auto empty_id = Pull(Ref("a:empty"));
  ASSERT_TRUE(empty_id.ok()) << empty_id.status();
  EXPECT_EQ(Names(LayerDir(*empty_id, 0)), "");
}

TEST_F(PullerTest, ImplicitParentsAndCrossLayerLinksTakeFromTheLayersBelow) {
  const TestImage image = MakeImage(
      {TarBuilder().Dir("data", 0700, 1000).File("data/big", "content", 0640, 1000).Done(),
       TarBuilder().File("data/new", "n").HardLink("linked", "data/big").Done()});
  PutImage(&registry_, "a", "1", image);
  const auto id = Pull(Ref("a:1"));
  ASSERT_TRUE(id.ok()) << id.status();
  const std::string upper = LayerDir(*id, 0);
  struct stat st, other;
  ASSERT_EQ(stat((upper + "/data").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0700u);
  EXPECT_EQ(st.st_uid, 1000u);
  ASSERT_EQ(stat((upper + "/linked").c_str(), &st), 0);
  ASSERT_EQ(stat((upper + "/data/big").c_str(), &other), 0);
  EXPECT_EQ(st.st_ino, other.st_ino);
  EXPECT_EQ(st.st_mode & 07777, 0640u);
  EXPECT_EQ(ReadTestFile(upper + "/linked"), "content");

  // The same upper layer over another base must not share the tree.
  const TestImage sibling =
      MakeImage({TarBuilder().Dir("data", 0755, 7).File("data/big", "b").Done(),
                 TarBuilder().File("data/new", "n").HardLink("linked", "data/big").Done()});
  PutImage(&registry_, "a", "2", sibling);
  ASSERT_TRUE(Pull(Ref("a:2")).ok());
  EXPECT_EQ(ReadTestFile(LayerDir(sibling.id(), 0) + "/linked"), "b");
}

TEST_F(PullerTest, ALayerWithAnOpaqueRootHidesAllLayersBelow) {
  const TestImage image = MakeImage({TarBuilder().File("old", "old").File("o2", "").Done(),
                                     TarBuilder().File(".wh..wh..opq", "").File("new", "").Done(),
                                     TarBuilder().File("top", "").Done()});
  PutImage(&registry_, "a", "opaque", image);
  const auto id = Pull(Ref("a:opaque"));
  ASSERT_TRUE(id.ok()) << id.status();
  for (const bool reopened : {false, true}) {
    if (reopened) OpenStore();
    const auto pin = *store_->PinLayers(*id);
    ASSERT_EQ(pin->lower_dirs().size(), 2u);
    EXPECT_TRUE(Exists(pin->lower_dirs()[0] + "/top"));
    EXPECT_TRUE(Exists(pin->lower_dirs()[1] + "/new"));
  }
  // Nor does a layer above take anything from what is hidden.
  PutImage(&registry_, "a", "link",
           MakeImage({TarBuilder().File("old", "old").Done(),
                      TarBuilder().File(".wh..wh..opq", "").Done(),
                      TarBuilder().HardLink("link", "old").Done()}));
  EXPECT_TRUE(absl::IsFailedPrecondition(Pull(Ref("a:link")).status()));
}

TEST_F(PullerTest, AnArtifactIsStoredUnderItsManifestsDigest) {
  const std::string blob = "model weights";
  registry_.PutBlob("{}");
  const Digest layer = registry_.PutBlob(blob);
  const Digest manifest = registry_.PutManifest(
      "a", "art", kOciManifestType,
      absl::StrCat(R"({"schemaVersion":2,"artifactType":"application/x","config":{"mediaType":)",
                   R"("application/vnd.oci.empty.v1+json","size":2,"digest":")",
                   Hasher::Hash(Digest::Algorithm::kSha256, "{}").ToString(),
                   R"("},"layers":[{"mediaType":"application/x","size":)", blob.size(),
                   R"(,"digest":")", layer.ToString(), R"("}]})"));
  const auto id = Pull(Ref("a:art"));
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, manifest.ToString());
  EXPECT_GE(store_->Find(*id)->size, blob.size());
  EXPECT_TRUE(absl::IsFailedPrecondition(store_->PinLayers(*id).status()));
  EXPECT_EQ(ReadTestFile(dir_.path("store/oci/blobs/sha256/") + layer.hex()), blob);
}

TEST_F(PullerTest, KeepsLayerBlobsWhereConfigured) {
  options_.pull.layer.keep_blob = true;
  OpenStore();
  const TestImage image = MakeImage({kTar, kTar});
  PutImage(&registry_, "a", "1", image);
  ASSERT_TRUE(Pull(Ref("a:1")).ok());
  const std::string blob = dir_.path("store/oci/blobs/sha256/") +
                           Hasher::Hash(Digest::Algorithm::kSha256, image.layers[0].blob).hex();
  EXPECT_EQ(ReadTestFile(blob), image.layers[0].blob);
  OpenStore();
  EXPECT_TRUE(Exists(blob));
  ASSERT_TRUE(store_->Remove(image.id()).ok());
  EXPECT_FALSE(Exists(blob));
}

TEST_F(PullerTest, WhatIsNotThereOrNotAReferenceIsAClearError) {
  ExpectFailure(Ref("no/such:1"), absl::StatusCode::kNotFound, "NAME_UNKNOWN");
  ExpectFailure("UPPER", absl::StatusCode::kInvalidArgument, "not an image reference");
  ExpectFailure("127.0.0.1:1/a:1", absl::StatusCode::kUnavailable, "RegistryUnavailable: pull");
}

TEST_F(PullerTest, ARegistryThatFailsIsReportedAsUnavailable) {
  registry_.SetHook([](const FakeRequest&) {
    FakeReply reply;
    reply.status = 503;
    return reply;
  });
  const auto result = Pull(Ref("a:1"));
  EXPECT_TRUE(absl::StartsWith(result.status().message(), "RegistryUnavailable"))
      << result.status();
}

TEST_F(PullerTest, AWrongDigestASizeThatLiesAndATruncatedLayerLeaveNothing) {
  TestImage image = MakeImage({kTar, TarBuilder().File("x", std::string(100'000, 'x')).Done()});
  PutImage(&registry_, "a", "1", image);
  const Digest layer = Hasher::Hash(Digest::Algorithm::kSha256, image.layers[1].blob);
  std::string served = image.layers[1].blob;
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    if (!absl::StrContains(request.path, layer.hex())) return {};
    FakeReply reply;
    reply.body = served;
    return reply;
  });
  served[served.size() / 2] ^= 1;
  ExpectFailure(Ref("a:1"), absl::StatusCode::kDataLoss, "digest");
  served = image.layers[1].blob + "x";
  ExpectFailure(Ref("a:1"), absl::StatusCode::kDataLoss, "bytes");

  registry_.SetHook(nullptr);
  image.layers[1].blob.resize(image.layers[1].blob.size() / 2);
  testing::RebuildManifest(&image);
  PutImage(&registry_, "a", "2", image);
  ExpectFailure(Ref("a:2"), absl::StatusCode::kDataLoss, "layer");
}

TEST_F(PullerTest, ADiffIdThatIsNotTheContentsIsDataLoss) {
  TestImage image = MakeImage({kTar});
  image.layers[0].blob = testing::Gzip(TarBuilder().File("other", "").Done());
  testing::RebuildManifest(&image);
  PutImage(&registry_, "a", "1", image);
  ExpectFailure(Ref("a:1"), absl::StatusCode::kDataLoss, "diff ID");
}

TEST_F(PullerTest, ALayerThatBreaksTheRulesLeavesNothing) {
  for (const std::string& tar :
       {TarBuilder().File("../escape", "x").Done(), TarBuilder().CharDevice("null", 0, 0).Done(),
        TarBuilder().HardLink("link", "../../etc/passwd").Done(),
        TarBuilder().HardLink("link", "nowhere").Done()}) {
    PutImage(&registry_, "a", "1", MakeImage({kTar, tar}));
    ExpectFailure(Ref("a:1"), absl::StatusCode::kFailedPrecondition, "layer");
  }
  EXPECT_FALSE(Exists(dir_.path("escape")));
}

TEST_F(PullerTest, ManifestsAndConfigsThatBreakTheRulesLeaveNothing) {
  testing::TestImageOptions arm;
  arm.architecture = "arm64";
  PutImage(&registry_, "a", "arm", MakeImage({kTar}, arm));
  ExpectFailure(Ref("a:arm"), absl::StatusCode::kFailedPrecondition, "linux/arm64");

  testing::TestImageOptions user;
  user.process = R"({"User":"4294967296"})";
  PutImage(&registry_, "a", "user", MakeImage({kTar}, user));
  ExpectFailure(Ref("a:user"), absl::StatusCode::kFailedPrecondition, "User");

  TestImage count = MakeImage({kTar});
  count.layers.push_back(count.layers[0]);
  testing::RebuildManifest(&count);
  PutImage(&registry_, "a", "count", count);
  ExpectFailure(Ref("a:count"), absl::StatusCode::kFailedPrecondition, "2 layers");

  registry_.PutManifest("a", "schema1", "application/vnd.docker.distribution.manifest.v1+prettyjws",
                        R"({"schemaVersion":1,"fsLayers":[]})");
  ExpectFailure(Ref("a:schema1"), absl::StatusCode::kFailedPrecondition, "schema 1");

  registry_.PutManifest("a", "twice", kOciManifestType, R"({"schemaVersion":2,"schemaVersion":2})");
  ExpectFailure(Ref("a:twice"), absl::StatusCode::kFailedPrecondition, "twice");
}

TEST_F(PullerTest, AnIndexThatLeadsToItselfOrNowhereEnds) {
  std::string previous = "{}";
  for (int i = 0; i < 8; ++i) {
    const Digest inner = registry_.PutManifest("a", "", kOciIndexType, previous);
    previous = absl::StrCat(R"({"schemaVersion":2,"manifests":[{"mediaType":")", kOciIndexType,
                            R"(","size":)", previous.size(), R"(,"digest":")", inner.ToString(),
                            R"("}]})");
  }
  registry_.PutManifest("a", "deep", kOciIndexType, previous);
  ExpectFailure(Ref("a:deep"), absl::StatusCode::kFailedPrecondition, "nested");
}

TEST_F(PullerTest, AFailedLayerStopsTheOthersAndIsTheErrorThatIsReported) {
  TestImage image = MakeImage({kTar, TarBuilder().File("y", "").Done()});
  PutImage(&registry_, "a", "1", image);
  const Digest slow = Hasher::Hash(Digest::Algorithm::kSha256, image.layers[0].blob);
  const Digest missing = Hasher::Hash(Digest::Algorithm::kSha256, image.layers[1].blob);
  registry_.SetHook([&](const FakeRequest& request) -> std::optional<FakeReply> {
    FakeReply reply;
    if (absl::StrContains(request.path, slow.hex())) {
      reply.body = image.layers[0].blob;
      reply.send_only = 1;
      reply.then_stall = true;
      return reply;
    }
    if (!absl::StrContains(request.path, missing.hex())) return {};
    reply.status = 404;
    return reply;
  });
  ExpectFailure(Ref("a:1"), absl::StatusCode::kNotFound, missing.ToString());
}

TEST_F(PullerTest, PinnedLayersOutliveTheImageAndGoWithTheLastPin) {
  PutImage(&registry_, "a", "1", MakeImage({kTar}));
  const auto id = Pull(Ref("a:1"));
  ASSERT_TRUE(id.ok());
  store_->StartGarbageCollection();
  auto pin = *store_->PinLayers(*id);
  const std::string layer = pin->lower_dirs()[0];
  ASSERT_TRUE(store_->Remove(*id).ok());
  store_->WaitForJanitor();
  EXPECT_TRUE(Exists(layer + "/bin/sh"));
  EXPECT_EQ(store_->Find(*id), nullptr);
  pin.reset();
  store_->WaitForJanitor();
  EXPECT_FALSE(Exists(layer));
  ExpectNothingLeft();
  EXPECT_TRUE(Pull(Ref("a:1")).ok());
}

TEST_F(PullerTest, AfterARestartPinsCanBeTakenAgainThoughTheImageWasRemoved) {
  PutImage(&registry_, "a", "1", MakeImage({kTar}));
  const auto id = Pull(Ref("a:1"));
  ASSERT_TRUE(id.ok());
  auto pin = *store_->PinLayers(*id);
  const std::vector<std::string> dirs = pin->lower_dirs();
  ASSERT_TRUE(store_->Remove(*id).ok());
  store_->WaitForJanitor();
  pin.reset();
  OpenStore();
  auto again = store_->RepinLayers(dirs);
  ASSERT_TRUE(again.ok()) << again.status();
  store_->StartGarbageCollection();
  store_->WaitForJanitor();
  EXPECT_TRUE(Exists(dirs[0] + "/bin/sh"));
  again->reset();
  store_->WaitForJanitor();
  EXPECT_FALSE(Exists(dirs[0]));
  EXPECT_FALSE(store_->RepinLayers({"/etc"}).ok());
}

}  // namespace
}  // namespace davit::images
