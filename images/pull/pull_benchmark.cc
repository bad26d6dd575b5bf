// What a pull costs beside its slowest stage: the same layer downloaded and hashed only, unpacked
// only, and pulled whole, from a registry in this process. Prints MB/s of compressed bytes.
//
//   pull_benchmark path/of/davit-unpack [MiB of content]

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/pull/puller.h"
#include "images/testing/event.h"
#include "images/testing/fake_registry.h"
#include "images/testing/temp_dir.h"
#include "images/testing/test_image.h"
#include "runtime/sys/file.h"

namespace davit::images {
namespace {

using testing::FakeRegistry;
using testing::TestImage;

// Files of 64 KiB, half of which compresses.
std::string MakeTar(size_t mib) {
  std::mt19937_64 random(1);
  testing::TarBuilder tar;
  for (size_t i = 0; i < mib * 16; ++i) {
    std::string content(64 * 1024, 'x');
    for (size_t at = 0; at < content.size() / 2; at += 8) {
      const uint64_t value = random();
      content.replace(at, 8, reinterpret_cast<const char*>(&value), 8);
    }
    tar.File(absl::StrCat("d", i / 256, "/f", i), content);
  }
  return tar.Done();
}

void Report(const char* what, absl::Time start, size_t bytes) {
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  std::printf("%-28s %7.3f s %8.1f MB/s\n", what, seconds,
              static_cast<double>(bytes) / 1e6 / seconds);
}

void DownloadOnly(const FakeRegistry& registry, const TestImage& image) {
  RegistryContext context;
  auto client = *RepositoryClient::Create(
      &context, std::make_shared<const HostSettings>(std::map<std::string, RegistryOptions>()),
      *ParseReference(absl::StrCat(registry.host(), "/a:1")), {});
  const CancelToken cancel;
  const absl::Time start = absl::Now();
  for (const auto& layer : image.layers) {
    Descriptor descriptor;
    descriptor.digest = Hasher::Hash(Digest::Algorithm::kSha256, layer.blob);
    descriptor.size = layer.blob.size();
    if (!client
             ->FetchBlob(
                 descriptor, [](absl::string_view) { return absl::OkStatus(); }, cancel)
             .ok()) {
      std::abort();
    }
    Report("download and hash", start, layer.blob.size());
  }
}

void UnpackOnly(const TestImage& image, int helper_fd) {
  testing::TempDir dir;
  testing::MakeDir(dir.path("layer"));
  const auto staging = *sys::OpenAt(AT_FDCWD, dir.path("layer"), O_RDONLY | O_DIRECTORY);
  unpack::UnpackOptions options;
  options.helper_fd = helper_fd;
  options.staging_fd = staging.get();
  const absl::Time start = absl::Now();
  auto unpacker = *unpack::StartUnpackProcess(options);
  if (!unpacker->Write(image.layers[0].blob).ok() || !unpacker->Finish().ok()) std::abort();
  Report("unpack from memory", start, image.layers[0].blob.size());
  if (syncfs(staging.get()) != 0) std::abort();
  Report("the same with sync", start, image.layers[0].blob.size());
}

void PullWhole(const FakeRegistry& registry, const TestImage& image, int helper_fd) {
  testing::TempDir dir;
  auto store = *ImageStore::Open(dir.path("store"), {});
  PullerOptions options;
  options.pull.layer.unpacker = &unpack::StartUnpackProcess;
  options.pull.layer.helper_fd = helper_fd;
  Puller puller(store.get(), options, {});
  testing::Event done;
  absl::StatusOr<std::string> result = absl::UnknownError("");
  const absl::Time start = absl::Now();
  PullRequest request;
  request.reference = absl::StrCat(registry.host(), "/a:1");
  const auto ticket = puller.Pull(request, [&](absl::StatusOr<std::string> id) {
    result = std::move(id);
    done.Notify();
  });
  done.Wait(absl::InfiniteDuration());
  if (!result.ok()) std::printf("%s\n", result.status().ToString().c_str());
  Report("whole pull with sync", start, image.layers[0].blob.size());
}

}  // namespace
}  // namespace davit::images

int main(int argc, char** argv) {
  using namespace davit::images;
  spdlog::set_level(spdlog::level::warn);
  if (argc < 2) {
    std::fprintf(stderr, "usage: %s path/of/davit-unpack [MiB]\n", argv[0]);
    return 2;
  }
  const auto helper = davit::sys::OpenAt(AT_FDCWD, argv[1], O_RDONLY);
  if (!helper.ok()) return 1;
  const TestImage image =
      testing::MakeImage({MakeTar(argc > 2 ? static_cast<size_t>(std::atoi(argv[2])) : 1024)});
  FakeRegistry registry;
  testing::PutImage(&registry, "a", "1", image);
  for (int round = 0; round < 2; ++round) {
    DownloadOnly(registry, image);
    UnpackOnly(image, helper->get());
    PullWhole(registry, image, helper->get());
  }
  return 0;
}
