#include "images/image_service.h"

#include <curl/curl.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "images/digest.h"
#include "images/document/media_type.h"
#include "images/testing/event.h"
#include "images/testing/fake_registry.h"
#include "images/testing/temp_dir.h"
#include "images/testing/test_image.h"
#include "runtime/sys/file.h"
#include "runtime/sys/spawn.h"

namespace davit::images {
namespace {

using testing::FakeRegistry;
using testing::MakeImage;
using testing::Names;
using testing::TarBuilder;
using testing::TempDir;
using testing::TestImage;

std::string Helper() {
  return absl::StrCat(std::getenv("TEST_SRCDIR"), "/", std::getenv("TEST_WORKSPACE"),
                      "/images/unpack/davit-unpack");
}

ImageServiceOptions OptionsFor(const std::string& root) {
  ImageServiceOptions options;
  options.root = root;
  options.unpack_helper = Helper();
  options.stall_timeout = absl::Seconds(10);
  return options;
}

absl::StatusOr<std::string> Pull(ImageService& service, const std::string& reference,
                                 std::optional<Credentials> credentials = {}) {
  testing::Event done;
  absl::StatusOr<std::string> result = absl::UnknownError("no answer");
  PullRequest request;
  request.reference = reference;
  request.credentials = std::move(credentials);
  const auto ticket = service.Pull(std::move(request), [&](absl::StatusOr<std::string> id) {
    result = std::move(id);
    done.Notify();
  });
  done.Wait();
  return result;
}

std::string LowerDir(ImageService& service, const std::string& id) {
  return service.PinLayers(id).value()->lower_dirs()[0];
}

// Debian's docker-registry on a free port of loopback.
class DockerRegistry {
 public:
  // `http_config` is YAML below "http:", two spaces deep.
  explicit DockerRegistry(const std::string& extra_config = "") {
    FakeRegistry port_finder;  // its port is free again when it has gone
    host_ = port_finder.host();
    config_ = absl::StrCat("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n",
                           "storage: {filesystem: {rootdirectory: ", dir_.path("data"),
                           "}}\nhttp:\n  addr: ", host_, "\n", extra_config);
  }
  ~DockerRegistry() {
    if (!process_.pidfd.ok()) return;
    (void)sys::KillPidfd(process_.pidfd.get(), SIGKILL);
    (void)sys::WaitPidfd(process_.pidfd.get(), absl::InfiniteFuture());
  }
  void Start(const std::string& scheme) {
    scheme_ = scheme;
    testing::WriteTestFile(dir_.path("config.yml"), config_);
    sys::SpawnOptions options;
    options.path = "/usr/bin/docker-registry";
    options.argv = {"docker-registry", "serve", dir_.path("config.yml")};
    process_ = *sys::Spawn(options);
    while (Request("GET", "/v2/", "", "") < 200) absl::SleepFor(absl::Milliseconds(20));
  }

  const std::string& host() const { return host_; }
  void Push(const std::string& repository, const std::string& tag, const TestImage& image) {
    PushBlob(repository, image.config);
    for (const auto& layer : image.layers) PushBlob(repository, layer.blob);
    ASSERT_EQ(Request("PUT", absl::StrCat("/v2/", repository, "/manifests/", tag), image.manifest,
                      image.manifest_type),
              201);
  }

 private:
  void PushBlob(const std::string& repository, const std::string& bytes) {
    std::string location;
    ASSERT_EQ(
        Request("POST", absl::StrCat("/v2/", repository, "/blobs/uploads/"), "", "", &location),
        202);
    const std::string digest = Hasher::Hash(Digest::Algorithm::kSha256, bytes).ToString();
    ASSERT_EQ(Request("PUT", absl::StrCat(location, "&digest=", digest), bytes,
                      "application/octet-stream"),
              201);
  }

  static size_t ReadBody(char* data, size_t, size_t size, void* rest) {
    auto* view = static_cast<absl::string_view*>(rest);
    const size_t n = std::min(size, view->size());
    std::copy_n(view->data(), n, data);
    view->remove_prefix(n);
    return n;
  }
  static size_t Ignore(char*, size_t, size_t size, void*) { return size; }

  long Request(const std::string& method, const std::string& target, const std::string& body,
               const std::string& type, std::string* location = nullptr) {
    CURL* curl = curl_easy_init();
    const std::string url =
        absl::StartsWith(target, "http") ? target : absl::StrCat(scheme_, "://", host_, target);
    curl_slist* headers = curl_slist_append(nullptr, absl::StrCat("Content-Type: ", type).c_str());
    headers = curl_slist_append(headers, "Expect:");
    absl::string_view rest = body;
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method.c_str());
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_PROXY, "");
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Ignore);
    if (method != "GET") {
      curl_easy_setopt(curl, CURLOPT_UPLOAD, 1L);
      curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, method.c_str());
      curl_easy_setopt(curl, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(body.size()));
      curl_easy_setopt(curl, CURLOPT_READFUNCTION, &ReadBody);
      curl_easy_setopt(curl, CURLOPT_READDATA, &rest);
    }
    long status = 0;
    if (curl_easy_perform(curl) == CURLE_OK) {
      curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
      curl_header* header = nullptr;
      if (location != nullptr &&
          curl_easy_header(curl, "Location", 0, CURLH_HEADER, -1, &header) == CURLHE_OK) {
        *location = header->value;
      }
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(curl);
    return status;
  }

  TempDir dir_;
  std::string host_;
  std::string config_;
  std::string scheme_;
  sys::SpawnedProcess process_;
};

void OpenSsl(const std::vector<std::string>& argv) {
  sys::SpawnOptions options;
  options.path = "/usr/bin/openssl";
  options.argv = argv;
  const auto result = sys::RunCommand(options, "", 1 << 20, absl::Now() + absl::Seconds(60));
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->wait_status, 0) << result->err;
}

TEST(ImageServiceTest, PullsFromDebiansRegistryAndForgetsNothingOverARestart) {
  TempDir dir;
  DockerRegistry registry;
  registry.Start("http");
  const TestImage image = MakeImage({TarBuilder().Dir("etc").File("etc/x", "x").Done(),
                                     TarBuilder().File("etc/.wh.x", "").File("y", "y").Done()});
  registry.Push("some/image", "v1", image);
  auto service = ImageService::Open(OptionsFor(dir.path("store")));
  ASSERT_TRUE(service.ok()) << service.status();
  const std::string reference = registry.host() + "/some/image:v1";
  const auto id = Pull(**service, reference);
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(*id, image.id());
  EXPECT_EQ(testing::ReadTestFile(LowerDir(**service, *id) + "/y"), "y");
  EXPECT_TRUE(absl::IsNotFound(Pull(**service, registry.host() + "/some/image:v2").status()));
  EXPECT_GT((*service)->Usage().used_bytes, 0u);

  service->reset();
  service = ImageService::Open(OptionsFor(dir.path("store")));
  ASSERT_TRUE(service.ok()) << service.status();
  EXPECT_EQ((*service)->Find(reference)->id, *id);
  ASSERT_TRUE((*service)->Remove(reference).ok());
  EXPECT_TRUE((*service)->List().empty());
}

TEST(ImageServiceTest, TrustsAConfiguredCaOverTlsAndNothingElse) {
  TempDir dir;
  OpenSsl({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
           "-nodes", "-keyout", dir.path("key.pem"), "-out", dir.path("cert.pem"), "-days", "2",
           "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"});
  DockerRegistry registry(absl::StrCat("  tls: {certificate: ", dir.path("cert.pem"),
                                       ", key: ", dir.path("key.pem"), "}\n"));
  registry.Start("https");
  const TestImage image = MakeImage({TarBuilder().File("y", "y").Done()});
  registry.Push("a", "1", image);

  ImageServiceOptions options = OptionsFor(dir.path("store"));
  options.registries[registry.host()].ca_file = dir.path("cert.pem");
  auto service = *ImageService::Open(options);
  const auto id = Pull(*service, registry.host() + "/a:1");
  EXPECT_TRUE(id.ok()) << id.status();

  // Without the CA, the same registry is not to be trusted; the setting applies at once.
  RegistryOptions system_cas;
  system_cas.ca_file = "/etc/ssl/certs/ca-certificates.crt";
  service->SetRegistries({{registry.host(), system_cas}});
  const auto refused = Pull(*service, registry.host() + "/a:1");
  EXPECT_TRUE(absl::IsUnavailable(refused.status())) << refused.status();
  EXPECT_TRUE(absl::StrContains(refused.status().message(), "certificate")) << refused.status();

  RegistryOptions unverified;
  unverified.skip_verify = true;
  service->SetRegistries({{registry.host(), unverified}});
  EXPECT_TRUE(Pull(*service, registry.host() + "/a:1").ok());
}

TEST(ImageServiceTest, AFullDiskFailsThePullAndLeavesNothing) {
  TempDir dir;
  testing::MakeDir(dir.path("small"));
  ASSERT_EQ(mount("tmpfs", dir.path("small").c_str(), "tmpfs", 0, "size=24m"), 0);
  const auto unmount = absl::MakeCleanup([&] { umount2(dir.path("small").c_str(), MNT_DETACH); });
  FakeRegistry registry;
  // Compresses so well that the check before the pull cannot see it coming.
  testing::PutImage(&registry, "a", "bomb",
                    MakeImage({TarBuilder().File("zeros", std::string(60 << 20, '\0')).Done(),
                               TarBuilder().File("fine", "x").Done()}));
  testing::TestImageOptions plain;
  plain.compress = false;
  testing::PutImage(
      &registry, "a", "big",
      MakeImage({TarBuilder().File("big", std::string(60 << 20, 'x')).Done()}, plain));
  const TestImage small = MakeImage({TarBuilder().File("fine", "x").Done()});
  testing::PutImage(&registry, "a", "small", small);

  auto service = *ImageService::Open(OptionsFor(dir.path("small/store")));
  for (const char* tag : {"bomb", "big"}) {
    const auto result = Pull(*service, absl::StrCat(registry.host(), "/a:", tag));
    EXPECT_TRUE(absl::IsResourceExhausted(result.status())) << tag << ": " << result.status();
    EXPECT_EQ(Names(dir.path("small/store/staging")), "");
    EXPECT_TRUE(service->List().empty());
  }
  EXPECT_EQ(registry.CountRequests("/blobs/"), 4);  // of "big", the config alone
  EXPECT_TRUE(Pull(*service, registry.host() + "/a:small").ok());
}

// What the next test kills.
TEST(Daemon, DISABLED_ChildPulls) {
  auto service = *ImageService::Open(OptionsFor(std::getenv("DAVIT_STORE")));
  (void)Pull(*service, std::getenv("DAVIT_REFERENCE"));
}

TEST(ImageServiceTest, WhatAKilledDaemonLeftIsGoneAfterTheNextStart) {
  TempDir dir;
  FakeRegistry registry;
  const TestImage image = MakeImage({TarBuilder().File("a", std::string(300'000, 'a')).Done(),
                                     TarBuilder().File("b", std::string(300'000, 'b')).Done()});
  testing::PutImage(&registry, "a", "1", image);
  const Digest last = Hasher::Hash(Digest::Algorithm::kSha256, image.layers[1].blob);
  registry.SetHook([&](const testing::FakeRequest& request) -> std::optional<testing::FakeReply> {
    if (!absl::StrContains(request.path, last.hex())) return {};
    testing::FakeReply reply;
    reply.body = image.layers[1].blob;
    reply.send_only = 100;
    reply.then_stall = true;
    return reply;
  });
  // A process of its own, which is this test binary again.
  char self[4096] = {};
  ASSERT_GT(readlink("/proc/self/exe", self, sizeof(self) - 1), 0);
  sys::SpawnOptions spawn;
  spawn.path = self;
  spawn.argv = {self, "--gtest_also_run_disabled_tests",
                "--gtest_filter=Daemon.DISABLED_ChildPulls"};
  for (const char* name : {"TEST_SRCDIR", "TEST_WORKSPACE"}) {
    spawn.environment.push_back(absl::StrCat(name, "=", std::getenv(name)));
  }
  spawn.environment.push_back(absl::StrCat("DAVIT_STORE=", dir.path("store")));
  spawn.environment.push_back(absl::StrCat("DAVIT_REFERENCE=", registry.host(), "/a:1"));
  const auto daemon = *sys::Spawn(spawn);
  // The first layer is in place, the second under way.
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (absl::Now() < deadline && (!testing::Exists(dir.path("store/layers/1")) &&
                                    !testing::Exists(dir.path("store/layers/2")))) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  ASSERT_TRUE(sys::KillPidfd(daemon.pidfd.get(), SIGKILL).ok());
  ASSERT_TRUE(sys::WaitPidfd(daemon.pidfd.get(), absl::InfiniteFuture()).ok());
  EXPECT_NE(Names(dir.path("store/staging")), "");

  registry.SetHook(nullptr);
  auto service = *ImageService::Open(OptionsFor(dir.path("store")));
  EXPECT_TRUE(service->List().empty());
  EXPECT_EQ(Names(dir.path("store/staging")), "");
  // Running containers may use a layer without a row: it goes when their users have been told of,
  // and stands in nobody's way until then.
  EXPECT_TRUE(testing::Exists(dir.path("store/layers/1")) ||
              testing::Exists(dir.path("store/layers/2")));
  const auto id = Pull(*service, registry.host() + "/a:1");
  EXPECT_TRUE(id.ok()) << id.status();
  service->StartGarbageCollection();
  const std::string layers = Names(dir.path("store/layers"));
  EXPECT_EQ(std::count(layers.begin(), layers.end(), ' '), 2)
      << "the empty one and the two of the image, not " << layers;
}

TEST(ImageServiceTest, EndingTheServiceEndsItsPulls) {
  TempDir dir;
  FakeRegistry registry;
  testing::FakeReply stall;
  stall.body = "x";
  stall.send_only = 0;
  stall.then_stall = true;
  registry.SetHook([&](const testing::FakeRequest&) { return stall; });
  auto service = *ImageService::Open(OptionsFor(dir.path("store")));
  std::atomic<int> called{0};
  absl::Status status;
  PullRequest request;
  request.reference = registry.host() + "/a:1";
  const auto ticket = service->Pull(request, [&](const absl::StatusOr<std::string>& result) {
    status = result.status();
    ++called;
  });
  while (registry.requests().empty()) absl::SleepFor(absl::Milliseconds(2));
  service.reset();
  EXPECT_EQ(called, 1);
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

}  // namespace
}  // namespace davit::images
