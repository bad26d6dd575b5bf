#include "images/registry/host_settings.h"

#include <gtest/gtest.h>

namespace davit::images {
namespace {

std::vector<Endpoint> EndpointsOf(const HostSettings& settings, const std::string& reference) {
  return *settings.EndpointsFor(*ParseReference(reference));
}

TEST(HostSettingsTest, UsesHttpsExceptOnLoopbackAndWhereConfigured) {
  RegistryOptions insecure, private_ca;
  insecure.insecure_http = true;
  private_ca.ca_file = "/ca.pem";
  const HostSettings settings({{"10.0.0.1:5000", insecure}, {"127.0.0.1:5001", private_ca}});
  EXPECT_EQ(EndpointsOf(settings, "quay.io/a")[0].base.Origin(), "https://quay.io:443");
  EXPECT_EQ(EndpointsOf(settings, "busybox")[0].base.Origin(), "https://registry-1.docker.io:443");
  EXPECT_EQ(EndpointsOf(settings, "127.0.0.1:5000/a")[0].base.Origin(), "http://127.0.0.1:5000");
  EXPECT_EQ(EndpointsOf(settings, "localhost/a")[0].base.Origin(), "http://localhost:80");
  EXPECT_EQ(EndpointsOf(settings, "127.0.0.1:5001/a")[0].base.Origin(), "https://127.0.0.1:5001");
  EXPECT_EQ(EndpointsOf(settings, "10.0.0.1:5000/a")[0].base.Origin(), "http://10.0.0.1:5000");
  EXPECT_EQ(EndpointsOf(settings, "10.0.0.2:5000/a")[0].base.Origin(), "https://10.0.0.2:5000");
  EXPECT_TRUE(settings.HttpAllowed(*ParseUrl("http://10.0.0.1:5000/")));
  EXPECT_FALSE(settings.HttpAllowed(*ParseUrl("http://10.0.0.1:5001/")));
}

TEST(HostSettingsTest, MirrorsComeFirstAndGetNoCredentials) {
  RegistryOptions hub;
  hub.mirrors = {"http://mirror.example:5000/", "https://harbor.example/v2/proxy", "bare.example"};
  const HostSettings settings({{"docker.io", hub}});
  const auto endpoints = EndpointsOf(settings, "busybox");
  ASSERT_EQ(endpoints.size(), 4u);
  EXPECT_EQ(endpoints[0].base.ToString(), "http://mirror.example:5000");
  EXPECT_EQ(endpoints[1].base.path, "/v2/proxy");
  EXPECT_EQ(endpoints[2].base.Origin(), "https://bare.example:443");
  EXPECT_TRUE(endpoints[3].is_origin);
  EXPECT_FALSE(endpoints[0].may_authenticate);
  EXPECT_TRUE(endpoints[3].may_authenticate);
  EXPECT_TRUE(settings.HttpAllowed(*ParseUrl("http://mirror.example:5000/x")));
  EXPECT_FALSE(settings.HttpAllowed(*ParseUrl("http://mirror.example/x")));
}

TEST(HostSettingsTest, AMalformedMirrorIsAnError) {
  RegistryOptions options;
  options.mirrors = {"ftp://x"};
  const HostSettings settings({{"a.example", options}});
  EXPECT_EQ(settings.EndpointsFor(*ParseReference("a.example/x")).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(HostSettingsTest, APrivateCaIsTrustedForItsHostAloneAndAddsToTheSystemsElsewhere) {
  RegistryOptions options;
  options.ca_file = "/ca.pem";
  options.skip_verify = true;
  const HostSettings settings({{"a.example", options}});
  const Url registry = *ParseUrl("https://a.example/");
  const Url storage = *ParseUrl("https://cdn.example/");
  EXPECT_EQ(settings.TlsFor(registry, registry).ca_file, "/ca.pem");
  EXPECT_FALSE(settings.TlsFor(registry, registry).system_cas_too);
  EXPECT_TRUE(settings.TlsFor(registry, registry).skip_verify);
  EXPECT_TRUE(settings.TlsFor(storage, registry).system_cas_too);
  EXPECT_FALSE(settings.TlsFor(storage, registry).skip_verify);
  EXPECT_EQ(settings.TlsFor(storage, storage).ca_file, "");
}

}  // namespace
}  // namespace davit::images
