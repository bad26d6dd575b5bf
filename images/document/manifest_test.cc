#include "images/document/manifest.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "images/document/media_type.h"

namespace davit::images {
namespace {

const std::string kA = absl::StrCat("sha256:", std::string(64, 'a'));
const std::string kB = absl::StrCat("sha256:", std::string(64, 'b'));
const std::string kConfig = absl::StrCat(R"("config":{"mediaType":")", kOciConfigType,
                                         R"(","digest":")", kA, R"(","size":2})");
const Platform kAmd64 = {"linux", "amd64", "v3", {}};

std::string Entry(const std::string& digest, const std::string& extra) {
  return absl::StrCat(R"({"mediaType":")", kOciManifestType, R"(","size":10,"digest":")", digest,
                      "\"", extra.empty() ? "" : ",", extra, "}");
}

std::string OnPlatform(const std::string& os, const std::string& architecture,
                       const std::string& variant = "") {
  return absl::StrCat(R"("platform":{"os":")", os, R"(","architecture":")", architecture,
                      R"(","variant":")", variant, R"("})");
}

absl::StatusOr<Index> IndexOf(const std::string& entries) {
  auto parsed = ParseManifestDocument(
      absl::StrCat(R"({"schemaVersion":2,"manifests":[)", entries, "]}"), kOciIndexType);
  if (!parsed.ok()) return parsed.status();
  return std::get<Index>(*std::move(parsed));
}

void ExpectRefused(const std::string& document, const std::string& type, const std::string& why) {
  const auto parsed = ParseManifestDocument(document, type);
  ASSERT_FALSE(parsed.ok()) << document;
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(absl::StrContains(parsed.status().message(), why)) << parsed.status();
}

TEST(ManifestTest, ReadsOciAndDockerManifests) {
  for (const std::string type : {kOciManifestType, kDockerManifestType}) {
    const auto parsed = ParseManifestDocument(
        absl::StrCat(R"({"schemaVersion":2,"mediaType":")", type, "\",", kConfig,
                     R"(,"layers":[{"mediaType":"x","digest":")", kB,
                     R"(","size":7}],"annotations":{"k":"v"},"unknown":[1]})"),
        absl::StrCat(type, "; charset=utf-8"));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const Manifest& manifest = std::get<Manifest>(*parsed);
    EXPECT_EQ(manifest.config.digest.ToString(), kA);
    ASSERT_EQ(manifest.layers.size(), 1u);
    EXPECT_EQ(manifest.layers[0].size, 7u);
    EXPECT_EQ(manifest.annotations.at("k"), "v");
    EXPECT_TRUE(manifest.IsImage());
  }
}

TEST(ManifestTest, AnotherConfigTypeMakesItAnArtifact) {
  const auto parsed = ParseManifestDocument(
      absl::StrCat(
          R"({"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.empty.v1+json",)",
          R"("digest":")", kA, R"(","size":2},"layers":[]})"),
      kOciManifestType);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_FALSE(std::get<Manifest>(*parsed).IsImage());
}

TEST(ManifestTest, RefusesDocumentsThatCanBeReadTwoWays) {
  ExpectRefused(absl::StrCat(R"({"schemaVersion":2,"manifests":[],)", kConfig, R"(,"layers":[]})"),
                kOciManifestType, "another kind");
  ExpectRefused(absl::StrCat(R"({"schemaVersion":2,"manifests":[],)", kConfig, R"(,"layers":[]})"),
                kOciIndexType, "as a manifest");
  ExpectRefused(R"({"schemaVersion":2,"manifests":[],"layers":[]})", kOciIndexType, "manifest");
  ExpectRefused(absl::StrCat(R"({"schemaVersion":2,"layers":[],"layers":[],)", kConfig, "}"),
                kOciManifestType, "occurs twice");
  ExpectRefused(absl::StrCat(R"({"schemaVersion":2,)", kConfig, R"(,"layers":[{"mediaType":"x",)",
                             R"("digest":")", kA, R"(","size":1,"digest":")", kB, R"("}]})"),
                kOciManifestType, "occurs twice");
}

TEST(ManifestTest, RefusesAMediaTypeThatContradictsTheHeader) {
  ExpectRefused(
      absl::StrCat(R"({"schemaVersion":2,"mediaType":")", kOciIndexType, R"(","manifests":[]})"),
      kOciManifestType, "says that it is");
  ExpectRefused(R"({"schemaVersion":2,"manifests":[]})", "text/html", "not a kind of manifest");
}

TEST(ManifestTest, SaysThatSchema1IsNotSupported) {
  ExpectRefused(R"({"schemaVersion":1,"fsLayers":[],"history":[]})",
                "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1");
  ExpectRefused(R"({"schemaVersion":1})", "text/plain", "schema 1");
}

TEST(ManifestTest, RefusesMalformedMembers) {
  const std::string head = absl::StrCat(R"({"schemaVersion":2,)", kConfig, R"(,"layers":)");
  ExpectRefused(absl::StrCat(head, R"([{"digest":")", kA, R"(","size":-1}]})"), kOciManifestType,
                "size");
  ExpectRefused(absl::StrCat(head, R"([{"digest":")", kA, R"(","size":1.5}]})"), kOciManifestType,
                "size");
  ExpectRefused(absl::StrCat(head, R"([{"digest":")", kA, R"("}]})"), kOciManifestType, "size");
  ExpectRefused(absl::StrCat(head, R"([{"digest":"sha256:../../x","size":1}]})"), kOciManifestType,
                "not a digest");
  ExpectRefused(absl::StrCat(head, R"([{"digest":"blake3:aa","size":1}]})"), kOciManifestType,
                "not supported");
  ExpectRefused(absl::StrCat(head, R"({"0":1}})"), kOciManifestType, "layers");
  ExpectRefused(R"({"schemaVersion":2,"layers":[]})", kOciManifestType, "config");
  ExpectRefused(R"({"schemaVersion":3})", kOciManifestType, "schemaVersion");
  ExpectRefused("[]", kOciManifestType, "object");
  ExpectRefused("{", kOciManifestType, "JSON");
  ExpectRefused("", kOciManifestType, "JSON");
  ExpectRefused("{\"schemaVersion\":2,\"x\":\"\xff\"}", kOciManifestType, "JSON");
  ExpectRefused(absl::StrCat("{\"x\":", std::string(2000, '['), std::string(2000, ']'), "}"),
                kOciManifestType, "deeply");
  ExpectRefused(std::string(kMaxManifestBytes + 1, ' '), kOciManifestType, "longer");
}

TEST(ManifestTest, RefusesMoreLayersThanOverlayStacks) {
  std::string layers;
  for (size_t i = 0; i <= kMaxLayers; ++i) {
    absl::StrAppend(&layers, i == 0 ? "" : ",", Entry(kA, ""));
  }
  ExpectRefused(absl::StrCat(R"({"schemaVersion":2,)", kConfig, R"(,"layers":[)", layers, "]}"),
                kOciManifestType, "501 layers");
}

TEST(IndexTest, ChoosesTheExactPlatformOverALowerOne) {
  const auto index = IndexOf(absl::StrCat(Entry(kA, OnPlatform("linux", "amd64")), ",",
                                          Entry(kB, OnPlatform("linux", "amd64", "v3"))));
  ASSERT_TRUE(index.ok()) << index.status();
  EXPECT_EQ(ChooseManifest(*index, kAmd64)->digest.ToString(), kB);
  EXPECT_EQ(ChooseManifest(*index, {"linux", "amd64", "v2", {}})->digest.ToString(), kA);
}

TEST(IndexTest, TheFirstOfEqualEntriesWins) {
  const auto index = IndexOf(absl::StrCat(Entry(kA, OnPlatform("linux", "amd64")), ",",
                                          Entry(kB, OnPlatform("linux", "amd64"))));
  EXPECT_EQ(ChooseManifest(*index, kAmd64)->digest.ToString(), kA);
}

TEST(IndexTest, NeverChoosesAttestationsUnknownTypesOrUnknownFeatures) {
  const auto index = IndexOf(absl::StrCat(
      Entry(kA, absl::StrCat(OnPlatform("unknown", "unknown"),
                             R"(,"annotations":{"vnd.docker.reference.type":)",
                             R"("attestation-manifest"})")),
      ",", R"({"mediaType":"application/x","size":1,"digest":")", kA, "\",",
      OnPlatform("linux", "amd64"), "},",
      Entry(kA, R"("platform":{"os":"linux","architecture":"amd64","os.features":["+erofs"]})"),
      ",", Entry(kA, OnPlatform("windows", "amd64")), ",",
      R"({"mediaType":"x","size":1,"digest":"blake3:aa"})"));
  ASSERT_TRUE(index.ok()) << index.status();
  const auto chosen = ChooseManifest(*index, kAmd64);
  EXPECT_EQ(chosen.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(chosen.status().message(), "windows/amd64")) << chosen.status();
}

TEST(IndexTest, AnEntryWithoutAPlatformIsTheLastResort) {
  const auto index =
      IndexOf(absl::StrCat(Entry(kA, ""), ",", Entry(kB, OnPlatform("linux", "amd64"))));
  EXPECT_EQ(ChooseManifest(*index, kAmd64)->digest.ToString(), kB);
  EXPECT_EQ(ChooseManifest(*index, {"linux", "s390x", "", {}})->digest.ToString(), kA);
  EXPECT_FALSE(ChooseManifest(*IndexOf(""), kAmd64).ok());
}

TEST(PlatformTest, KnowsTheSpellingsOfArchitectures) {
  EXPECT_GT(PlatformRank({"linux", "arm64", "", {}}, {"linux", "aarch64", "v8", {}}), 0);
  EXPECT_GT(PlatformRank({"linux", "arm", "v7", {}}, {"linux", "armhf", "", {}}), 0);
  EXPECT_GT(PlatformRank({"linux", "arm", "v7", {}}, {"linux", "arm", "v6", {}}), 0);
  EXPECT_EQ(PlatformRank({"linux", "arm", "v6", {}}, {"linux", "arm", "", {}}), 0);
  EXPECT_GT(PlatformRank(HostPlatform(), HostPlatform()), 0);
  EXPECT_EQ(PlatformRank(kAmd64, {"linux", "amd64", "v4", {}}), 0);
}

}  // namespace
}  // namespace davit::images
