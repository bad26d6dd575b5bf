#include "cri/translate_pod.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using sandbox::NamespaceMode;

v1::PodSandboxConfig Config() {
  v1::PodSandboxConfig config;
  config.mutable_metadata()->set_name("web");
  config.mutable_metadata()->set_namespace_("prod");
  config.mutable_metadata()->set_uid("u1");
  config.mutable_metadata()->set_attempt(2);
  return config;
}

TEST(TranslatePodTest, EverythingArrives) {
  v1::PodSandboxConfig config = Config();
  config.set_hostname("web-0");
  config.set_log_directory("/var/log/pods/x");
  config.mutable_dns_config()->add_servers("10.0.0.1");
  config.mutable_dns_config()->add_searches("a.local");
  config.mutable_dns_config()->add_options("ndots:5");
  auto* port = config.add_port_mappings();
  port->set_protocol(v1::UDP);
  port->set_container_port(53);
  port->set_host_port(5353);
  port->set_host_ip("::1");
  (*config.mutable_annotations())["kubernetes.io/ingress-bandwidth"] = "1M";
  config.mutable_linux()->set_cgroup_parent("/kubepods/podu1");
  (*config.mutable_linux()->mutable_sysctls())["net.core.somaxconn"] = "1024";
  auto* namespaces =
      config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  namespaces->set_pid(v1::CONTAINER);
  namespaces->set_ipc(v1::NODE);

  const auto spec = TranslatePod(config, "davit", {});
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->name_key, "web_prod_u1_2");
  EXPECT_EQ(spec->name, "web");
  EXPECT_EQ(spec->name_space, "prod");
  EXPECT_EQ(spec->uid, "u1");
  EXPECT_EQ(spec->hostname, "web-0");
  EXPECT_EQ(spec->cgroup_parent, "/kubepods/podu1");
  EXPECT_EQ(spec->network, NamespaceMode::kPod);
  EXPECT_EQ(spec->pid, NamespaceMode::kContainer);
  EXPECT_EQ(spec->ipc, NamespaceMode::kNode);
  EXPECT_EQ(spec->sysctls, (std::map<std::string, std::string>{{"net.core.somaxconn", "1024"}}));
  ASSERT_TRUE(spec->dns.has_value());
  EXPECT_EQ(spec->dns->servers, std::vector<std::string>{"10.0.0.1"});
  EXPECT_EQ(spec->dns->searches, std::vector<std::string>{"a.local"});
  EXPECT_EQ(spec->dns->options, std::vector<std::string>{"ndots:5"});
  ASSERT_EQ(spec->port_mappings.size(), 1u);
  EXPECT_EQ(spec->port_mappings[0].protocol, "udp");
  EXPECT_EQ(spec->port_mappings[0].container_port, 53);
  EXPECT_EQ(spec->port_mappings[0].host_port, 5353);
  EXPECT_EQ(spec->port_mappings[0].host_ip, "::1");
  EXPECT_EQ(spec->annotations.at("kubernetes.io/ingress-bandwidth"), "1M");
  EXPECT_EQ(spec->runtime_handler, "davit");
  ASSERT_NE(spec->metadata, nullptr);
}

TEST(TranslatePodTest, NoDnsConfigIsNotAnEmptyOne) {
  v1::PodSandboxConfig config = Config();
  EXPECT_FALSE(TranslatePod(config, "", {})->dns.has_value());
  config.mutable_dns_config();
  ASSERT_TRUE(TranslatePod(config, "", {})->dns.has_value());
}

TEST(TranslatePodTest, TheNodeMayCloseLowPortsAndPing) {
  v1::PodSandboxConfig config = Config();
  auto spec = TranslatePod(config, "", {false, false});
  ASSERT_TRUE(spec.ok());
  EXPECT_EQ(spec->sysctls.at("net.ipv4.ip_unprivileged_port_start"), "1024");
  EXPECT_EQ(spec->sysctls.at("net.ipv4.ping_group_range"), "1 0");
  // What the pod says itself stays; a pod on the node's network changes nothing there.
  (*config.mutable_linux()->mutable_sysctls())["net.ipv4.ip_unprivileged_port_start"] = "80";
  EXPECT_EQ(
      TranslatePod(config, "", {false, false})->sysctls.at("net.ipv4.ip_unprivileged_port_start"),
      "80");
  v1::PodSandboxConfig host = Config();
  host.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_network(
      v1::NODE);
  EXPECT_TRUE(TranslatePod(host, "", {false, false})->sysctls.empty());
}

// Applies `change` to a good configuration and returns the code and that the message names `field`.
template <typename Change>
std::string Error(Change change, const std::string& handler = "") {
  v1::PodSandboxConfig config = Config();
  change(&config);
  const auto spec = TranslatePod(config, handler, {});
  if (spec.ok()) return "(ok)";
  return spec.status().ToString();
}

TEST(TranslatePodTest, BadInputIsInvalidAndNamesTheField) {
  using C = v1::PodSandboxConfig;
  const auto expect = [](const std::string& error, const std::string& field) {
    EXPECT_TRUE(absl::StartsWith(error, "INVALID_ARGUMENT: ") && absl::StrContains(error, field))
        << error << " should name " << field;
  };
  expect(Error([](C* c) { c->clear_metadata(); }), "config.metadata");
  expect(Error([](C* c) { c->mutable_metadata()->clear_name(); }), "metadata.name");
  expect(Error([](C* c) { c->mutable_metadata()->clear_namespace_(); }), "metadata.namespace");
  expect(Error([](C* c) { c->mutable_metadata()->clear_uid(); }), "metadata.uid");
  expect(Error([](C* c) { c->mutable_metadata()->set_name("a\nb"); }), "metadata.name");
  expect(Error([](C* c) {}, "kata"), "runtime_handler");
  expect(Error([](C* c) { c->set_hostname(std::string(65, 'h')); }), "hostname");
  expect(Error([](C* c) { c->set_hostname("web\n10.0.0.1 api"); }), "hostname");
  expect(Error([](C* c) { c->set_log_directory("logs"); }), "log_directory");
  expect(Error([](C* c) { c->mutable_linux()->set_cgroup_parent("/a/../b"); }), "cgroup_parent");
  expect(Error([](C* c) { c->add_port_mappings(); }), "port_mappings[0]");
  expect(Error([](C* c) {
           auto* port = c->add_port_mappings();
           port->set_container_port(80);
           port->set_host_port(70000);
         }),
         "host_port");
  expect(Error([](C* c) {
           auto* port = c->add_port_mappings();
           port->set_container_port(80);
           port->set_host_ip("localhost");
         }),
         "host_ip");
  const auto options = [](C* c) {
    return c->mutable_linux()->mutable_security_context()->mutable_namespace_options();
  };
  expect(Error([&](C* c) { options(c)->set_network(v1::CONTAINER); }), "network");
  expect(Error([&](C* c) { options(c)->set_ipc(v1::TARGET); }), "ipc");
  expect(Error([&](C* c) { options(c)->set_pid(v1::TARGET); }), "pid");
  expect(Error([&](C* c) { options(c)->mutable_userns_options()->set_mode(v1::TARGET); }),
         "userns_options");
  expect(Error([&](C* c) { options(c)->mutable_userns_options()->set_mode(v1::POD); }),
         "userns_options");
  EXPECT_EQ(Error([&](C* c) { options(c)->mutable_userns_options()->set_mode(v1::NODE); }), "(ok)");
}

}  // namespace
}  // namespace davit::cri
