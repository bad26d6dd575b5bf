#include "images/unpack/client.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/sha.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "images/unpack/testing/tar_builder.h"
#include "images/unpack/testing/tree_listing.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"

namespace davit::images::unpack {
namespace {

using testing::Gzip;
using testing::ListTree;
using testing::TarBuilder;
using testing::TempDir;
using testing::Zstd;

std::string Sha256(absl::string_view data) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(data.data()), data.size(), digest);
  return absl::StrCat("sha256:", absl::BytesToHexString(absl::string_view(
                                     reinterpret_cast<const char*>(digest), SHA256_DIGEST_LENGTH)));
}

std::string Noise(size_t size) {
  std::mt19937_64 random(size);
  std::string data;
  data.reserve(size + 8);
  while (data.size() < size) {
    const uint64_t word = random();
    data.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  data.resize(size);
  return data;
}

class UnpackClientTest : public ::testing::Test {
 protected:
  UnpackClientTest() : helper_(open("images/unpack/davit-unpack", O_RDONLY | O_CLOEXEC)) {
    EXPECT_TRUE(helper_.ok()) << "davit-unpack is not beside the test";
  }

  std::unique_ptr<Unpacker> Start(const TempDir& staging) {
    options_.helper_fd = helper_.get();
    options_.staging_fd = staging.fd();
    auto unpacker = StartUnpackProcess(options_);
    EXPECT_TRUE(unpacker.ok()) << unpacker.status();
    return unpacker.ok() ? *std::move(unpacker) : nullptr;
  }

  absl::StatusOr<UnpackResult> Unpack(absl::string_view blob, const TempDir& staging,
                                      size_t piece = 100'000) {
    const auto unpacker = Start(staging);
    for (; !blob.empty(); blob.remove_prefix(std::min(piece, blob.size()))) {
      if (absl::Status status = unpacker->Write(blob.substr(0, piece)); !status.ok()) return status;
    }
    return unpacker->Finish();
  }

  absl::StatusCode CodeOf(absl::string_view blob) {
    TempDir staging;
    return Unpack(blob, staging).status().code();
  }

  sys::UniqueFd helper_;
  UnpackOptions options_;
};

TEST_F(UnpackClientTest, UnpacksEachCompressionAndSaysWhatTheLayerIs) {
  const std::string tar = TarBuilder()
                              .Dir("./")
                              .Dir("d")
                              .File("d/f", Noise(5'000'000))
                              .Symlink("d/s", "f")
                              .HardLink("h", "d/f")
                              .File("a/.wh.gone")
                              .HardLink("low", "usr/x")
                              .Device("null", '3', 1, 3)
                              .Finish() +
                          "bytes behind the end mark";
  const std::pair<std::string, Compression> kBlobs[] = {
      {tar, Compression::kNone}, {Gzip(tar), Compression::kGzip}, {Zstd(tar), Compression::kZstd}};
  for (const auto& [blob, kind] : kBlobs) {
    TempDir staging;
    const auto result = Unpack(blob, staging);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->diff_id, Sha256(tar));
    EXPECT_EQ(result->compression, kind);
    EXPECT_EQ(result->compressed_size, blob.size());
    EXPECT_EQ(result->uncompressed_size, tar.size());
    EXPECT_EQ(result->entries, 8u);
    EXPECT_EQ(result->bytes, 5'000'000u);
    EXPECT_TRUE(result->has_root_entry);
    EXPECT_EQ(result->fix_ups.implicit_parents, std::vector<std::string>{"a"});
    ASSERT_EQ(result->fix_ups.hard_links.size(), 1u);
    EXPECT_EQ(result->fix_ups.hard_links[0].path, "low");
    EXPECT_EQ(result->fix_ups.hard_links[0].target, "usr/x");
    const auto listing = ListTree(staging.path());
    EXPECT_EQ(listing.size(), 8u);
    EXPECT_TRUE(absl::StrContains(listing.at("a/gone"), "dev 0:0"));
    EXPECT_TRUE(absl::StrContains(listing.at("null"), "dev 1:3"));
    EXPECT_TRUE(absl::StrContains(listing.at("h"), "same as d/f"));
    EXPECT_EQ(listing.at("d"), "040755 0:0 1700000000.000000000");
  }
}

TEST_F(UnpackClientTest, ABlobOfNoBytesIsAnEmptyLayer) {
  TempDir staging;
  const auto result = Unpack("", staging);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->diff_id, Sha256(""));
  EXPECT_EQ(result->entries, 0u);
}

TEST_F(UnpackClientTest, LayersFillTheRingManyTimesOver) {
  const std::string tar = TarBuilder().File("big", Noise(40 << 20)).Finish();
  for (const size_t piece : {16'384, 1'000'003, 64 << 20}) {
    TempDir staging;
    const auto result = Unpack(tar, staging, piece);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->diff_id, Sha256(tar));
  }
}

TEST_F(UnpackClientTest, NeverTakesMoreThanThereIsRoomForAndSaysWhenThereIsAgain) {
  const std::string tar = TarBuilder().File("big", Noise(30 << 20)).Finish();
  TempDir staging;
  const auto unpacker = Start(staging);
  absl::string_view rest = tar;
  bool was_full = false;
  while (!rest.empty()) {
    const auto taken = unpacker->TryWrite(rest);
    ASSERT_TRUE(taken.ok()) << taken.status();
    rest.remove_prefix(*taken);
    if (*taken == 0) {
      was_full = true;
      pollfd entry{unpacker->event_fd(), POLLIN, 0};
      ASSERT_EQ(poll(&entry, 1, 60'000), 1);
    }
  }
  EXPECT_TRUE(was_full);
  const auto result = unpacker->Finish();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->diff_id, Sha256(tar));
  EXPECT_EQ(unpacker->progress().entries, 1u);
  EXPECT_EQ(unpacker->progress().tar_bytes, tar.size());
}

TEST_F(UnpackClientTest, TellsTheLayersFaultsApart) {
  const std::string good = TarBuilder().File("f", Noise(100'000)).Finish();
  const std::string gzip = Gzip(good);
  const std::string zstd = Zstd(good);
  EXPECT_EQ(CodeOf(gzip.substr(0, gzip.size() - 1)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(gzip.substr(0, 1000)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(zstd.substr(0, zstd.size() - 1)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(good.substr(0, 50'000)), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(gzip + "junk"), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf("<html>not a layer</html>"), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CodeOf(TarBuilder().File("../x").Finish()), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(TarBuilder().HardLink("h", "/../x").Finish()),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(CodeOf(TarBuilder().Device("d", '3', 0, 0).Finish()),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(UnpackClientTest, TheMessageNamesTheEntryAndTheReason) {
  TempDir staging;
  const auto result = Unpack(Gzip(TarBuilder().File("ok").File("../\x01 evil").Finish()), staging);
  EXPECT_EQ(std::string(result.status().message()),
            "unpack the layer: tar entry \"../\\001 evil\": the name leads out of the layer's root "
            "by \"..\"");
}

TEST_F(UnpackClientTest, StopsBombsAtTheirBounds) {
  options_.limits.ratio_floor_bytes = 8 << 20;
  options_.limits.max_ratio = 500;
  const std::string zeros(64 << 20, '\0');
  EXPECT_EQ(CodeOf(Zstd(TarBuilder().File("zeros", zeros).Finish())),
            absl::StatusCode::kFailedPrecondition);
  options_.limits = Limits();
  EXPECT_EQ(CodeOf(Zstd(TarBuilder().File("zeros", zeros).Finish())), absl::StatusCode::kOk);
  options_.limits.max_tar_bytes = 10 << 20;
  EXPECT_EQ(CodeOf(Gzip(TarBuilder().File("zeros", zeros).Finish())),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(UnpackClientTest, AnErrorStays) {
  TempDir staging;
  const auto unpacker = Start(staging);
  const std::string junk(1 << 20, 'j');
  absl::Status first;
  while (first.ok()) first = unpacker->Write(junk);
  EXPECT_TRUE(absl::IsDataLoss(first)) << first;
  EXPECT_EQ(unpacker->Write("more"), first);
  EXPECT_EQ(unpacker->Finish().status(), first);
}

// The helper of this test's process, by its parent.
pid_t ChildPid() {
  const std::string path = absl::StrCat("/proc/self/task/", gettid(), "/children");
  const auto children = sys::ReadFileAt(AT_FDCWD, path, 4096);
  return children.ok() ? atoi(children->c_str()) : -1;
}

TEST_F(UnpackClientTest, AKilledHelperFailsThisLayerAndNothingElse) {
  TempDir staging;
  const auto unpacker = Start(staging);
  const std::string piece = TarBuilder().File("f", Noise(500'000)).unfinished();
  ASSERT_TRUE(unpacker->Write(piece).ok());
  const pid_t pid = ChildPid();
  ASSERT_GT(pid, 1);
  // A crash, but not by a signal that the sanitizers make an exit of.
  ASSERT_EQ(kill(pid, SIGILL), 0);
  absl::Status status;
  while (status.ok()) status = unpacker->Write(piece);
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), "killed by signal 4")) << status;
  EXPECT_EQ(kill(pid, 0), -1);

  TempDir other;
  EXPECT_TRUE(Unpack(TarBuilder().File("f").Finish(), other).ok());
}

TEST_F(UnpackClientTest, AHelperKilledAtTheEndFailsToo) {
  TempDir staging;
  const auto unpacker = Start(staging);
  ASSERT_EQ(kill(ChildPid(), SIGKILL), 0);
  EXPECT_TRUE(absl::IsInternal(unpacker->Finish().status()));
}

TEST_F(UnpackClientTest, AbortWakesAWaitingCall) {
  TempDir staging;
  const auto unpacker = Start(staging);
  const pid_t pid = ChildPid();
  ASSERT_EQ(kill(pid, SIGSTOP), 0);  // so that Write has to wait for room
  std::thread aborter([&] { unpacker->Abort(); });
  absl::Status status;
  const std::string piece = Noise(1 << 20);
  while (status.ok()) status = unpacker->Write(piece);
  aborter.join();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_TRUE(absl::IsCancelled(unpacker->Finish().status()));
}

TEST_F(UnpackClientTest, DestroyingAnUnfinishedUnpackEndsItsHelper) {
  TempDir staging;
  auto unpacker = Start(staging);
  const pid_t pid = ChildPid();
  unpacker.reset();
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_EQ(errno, ESRCH);
}

TEST_F(UnpackClientTest, TheHelperDoesNotOutliveItsOwner) {
  TempDir staging;
  int report[2];
  ASSERT_EQ(pipe(report), 0);
  const pid_t owner = fork();
  if (owner == 0) {  // stands in for a daemon that is killed in the middle of a layer
    auto unpacker = Start(staging);
    (void)unpacker->Write(TarBuilder().File("f", Noise(200'000)).unfinished());
    const pid_t helper = ChildPid();
    (void)!write(report[1], &helper, sizeof helper);
    pause();
    _exit(0);
  }
  pid_t helper = -1;
  ASSERT_EQ(read(report[0], &helper, sizeof helper), static_cast<ssize_t>(sizeof helper));
  const auto pidfd = sys::PidfdOpen(helper);
  ASSERT_TRUE(pidfd.ok()) << pidfd.status();
  ASSERT_EQ(kill(owner, SIGKILL), 0);
  ASSERT_EQ(waitpid(owner, nullptr, 0), owner);
  pollfd entry{pidfd->get(), POLLIN, 0};
  EXPECT_EQ(poll(&entry, 1, 60'000), 1);
  close(report[0]);
  close(report[1]);
}

TEST_F(UnpackClientTest, AMissingHelperIsAnError) {
  TempDir staging;
  options_.helper_fd = -1;
  options_.staging_fd = staging.fd();
  EXPECT_FALSE(StartUnpackProcess(options_).ok());
}

TEST_F(UnpackClientTest, AFullDiskIsResourceExhausted) {
  TempDir base;
  ASSERT_EQ(mount("none", base.path().c_str(), "tmpfs", 0, "size=1m"), 0);
  auto unmount = absl::MakeCleanup([&] { umount2(base.path().c_str(), MNT_DETACH); });
  const sys::UniqueFd staging = base.Open();
  options_.helper_fd = helper_.get();
  options_.staging_fd = staging.get();
  auto unpacker = StartUnpackProcess(options_);
  ASSERT_TRUE(unpacker.ok());
  absl::Status status = (*unpacker)->Write(TarBuilder().File("f", Noise(3 << 20)).Finish());
  if (status.ok()) status = (*unpacker)->Finish().status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
}

// A helper that an attacker has taken over: what it does is told by the first bytes of the stream.
class CompromisedHelperTest : public UnpackClientTest {
 protected:
  CompromisedHelperTest() {
    helper_.reset(open("images/unpack/testing/lying_helper", O_RDONLY | O_CLOEXEC));
  }

  absl::Status Lie(const std::string& lie) {
    TempDir staging;
    EXPECT_EQ(symlinkat("/etc", staging.fd(), "out"), 0);
    const auto before = ListTree(staging.path());
    const auto unpacker = Start(staging);
    // More than the ring holds: what it says early is heard before the end.
    absl::Status status = unpacker->Write(lie + std::string(8 << 20, '\0'));
    if (status.ok()) status = unpacker->Finish().status();
    EXPECT_EQ(ListTree(staging.path()), before) << lie;
    return status;
  }
};

TEST_F(CompromisedHelperTest, ItsRecordsAreRefused) {
  for (const char* lie : {"record ../x", "record /etc/x", "record out/x", "record out",
                          "record a/../../x", "zero dev", "xattr out"}) {
    const absl::Status status = Lie(lie);
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << lie << ": " << status;
  }
}

TEST_F(CompromisedHelperTest, ABrokenProtocolFailsTheLayer) {
  for (const char* lie : {"consumed too much", "consumed backwards", "garbage", "empty message",
                          "early records", "early end", "bad digest", "bad exit"}) {
    const absl::Status status = Lie(lie);
    EXPECT_TRUE(absl::IsInternal(status)) << lie << ": " << status;
  }
}

TEST_F(CompromisedHelperTest, ItsErrorCodesAndTextsAreTamed) {
  const absl::Status status = Lie("failed");
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(std::string(status.message()), "unpack the layer: ?[31m line?break");
}

// The kernel's overlayfs has the last word on what whiteouts and opaque marks mean.
TEST_F(UnpackClientTest, OverlayfsShowsTheMergedTreeOfTwoLayers) {
  TempDir base;
  // overlayfs wants its upper layers on a file system that keeps trusted xattrs: tmpfs does.
  ASSERT_EQ(mount("none", base.path().c_str(), "tmpfs", 0, ""), 0);
  auto unmount = absl::MakeCleanup([&] { umount2(base.path().c_str(), MNT_DETACH); });
  const std::string kLayers[] = {Gzip(TarBuilder()
                                          .Dir("kept")
                                          .File("kept/a", "a")
                                          .File("kept/b", "b")
                                          .Dir("opaque")
                                          .File("opaque/old", "old")
                                          .Dir("replaced")
                                          .File("replaced/old", "old")
                                          .Dir("gone")
                                          .File("gone/x", "x")
                                          .Dir("becomes-file")
                                          .File("file", "old")
                                          .File("becomes-dir", "file")
                                          .Finish()),
                                 Zstd(TarBuilder()
                                          .File("kept/.wh.b")
                                          .File("kept/c", "c")
                                          .File("opaque/.wh..wh..opq")
                                          .File("opaque/new", "new")
                                          .File(".wh.replaced")
                                          .Dir("replaced")
                                          .File("replaced/new", "new")
                                          .File(".wh.gone")
                                          .File("becomes-file", "now a file")
                                          .File("file", "new")
                                          .Dir("becomes-dir")
                                          .File("becomes-dir/in", "in")
                                          .Finish())};
  std::string lower;
  for (int i = 0; i < 2; ++i) {
    const std::string name = absl::StrCat("l", i);
    ASSERT_TRUE(sys::MakeDirs(base / name, 0755).ok());
    auto staging = sys::OpenAt(AT_FDCWD, base / name, O_RDONLY | O_DIRECTORY);
    options_.helper_fd = helper_.get();
    options_.staging_fd = staging->get();
    auto unpacker = StartUnpackProcess(options_);
    ASSERT_TRUE(unpacker.ok());
    ASSERT_TRUE((*unpacker)->Write(kLayers[i]).ok());
    const auto result = (*unpacker)->Finish();
    ASSERT_TRUE(result.ok()) << result.status();
    lower = absl::StrCat(base / name, lower.empty() ? "" : ":", lower);
  }
  ASSERT_TRUE(sys::MakeDirs(base / "merged", 0755).ok());
  ASSERT_EQ(mount("overlay", (base / "merged").c_str(), "overlay", MS_RDONLY,
                  absl::StrCat("lowerdir=", lower).c_str()),
            0)
      << strerror(errno);
  auto unmount_merged = absl::MakeCleanup([&] { umount2((base / "merged").c_str(), MNT_DETACH); });
  std::vector<std::string> paths;
  for (const auto& [path, line] : ListTree(base / "merged")) paths.push_back(path);
  EXPECT_EQ(paths, (std::vector<std::string>{"", "becomes-dir", "becomes-dir/in", "becomes-file",
                                             "file", "kept", "kept/a", "kept/c", "opaque",
                                             "opaque/new", "replaced", "replaced/new"}));
  EXPECT_EQ(*sys::ReadFileAt(AT_FDCWD, base / "merged/file", 100), "new");
}

}  // namespace
}  // namespace davit::images::unpack
