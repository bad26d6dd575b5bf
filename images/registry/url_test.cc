#include "images/registry/url.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "images/registry/proxy.h"

namespace davit::images {
namespace {

TEST(UrlTest, SplitsAndJoins) {
  const auto url = ParseUrl("https://Host.example/v2/x?a=b");
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->Origin(), "https://host.example:443");
  EXPECT_EQ(url->path, "/v2/x");
  EXPECT_EQ(url->query, "a=b");
  EXPECT_EQ(url->ToString(), "https://host.example:443/v2/x?a=b");
  EXPECT_EQ(url->Redacted(), "https://host.example:443/v2/x?...");
  EXPECT_EQ(ParseUrl("http://[::1]:5000/")->HostPort(), "[::1]:5000");
}

TEST(UrlTest, RefusesOtherSchemesAndCredentials) {
  for (const char* text : {"file:///etc/passwd", "ftp://host/", "gopher://host/", "host", "",
                           "http://user:secret@host/"}) {
    EXPECT_FALSE(ParseUrl(text).ok()) << text;
  }
}

TEST(UrlTest, ResolvesRedirects) {
  const Url base = *ParseUrl("https://a.example/v2/x/blobs/y");
  EXPECT_EQ(ResolveUrl(base, "/z?q=1")->ToString(), "https://a.example:443/z?q=1");
  EXPECT_EQ(ResolveUrl(base, "z")->path, "/v2/x/blobs/z");
  EXPECT_EQ(ResolveUrl(base, "http://b.example/")->Origin(), "http://b.example:80");
  EXPECT_EQ(ResolveUrl(base, "//c.example/")->Origin(), "https://c.example:443");
  EXPECT_FALSE(ResolveUrl(base, "file:///etc/passwd").ok());
}

TEST(UrlTest, KnowsLoopback) {
  EXPECT_TRUE(IsLoopbackHost("localhost"));
  EXPECT_TRUE(IsLoopbackHost("127.9.9.9"));
  EXPECT_TRUE(IsLoopbackHost("::1"));
  EXPECT_FALSE(IsLoopbackHost("127.example.com"));
  EXPECT_FALSE(IsLoopbackHost("10.0.0.1"));
}

std::string Proxy(const ProxySettings& settings, const std::string& url) {
  return settings.ProxyFor(*ParseUrl(url));
}

TEST(ProxyTest, ChoosesByScheme) {
  const ProxySettings settings("http://p:1", "http://p:2", "");
  EXPECT_EQ(Proxy(settings, "http://a.example/"), "http://p:1");
  EXPECT_EQ(Proxy(settings, "https://a.example/"), "http://p:2");
  EXPECT_EQ(Proxy(settings, "http://127.0.0.1:5000/"), "");
  EXPECT_EQ(Proxy(settings, "http://localhost:5000/"), "");
}

TEST(ProxyTest, NoProxyKnowsHostsDomainsPortsAddressesAndBlocks) {
  const ProxySettings settings("http://p:1", "http://p:1",
                               "a.example, .b.example,*.c.example,d.example:8080,10.0.0.0/8,"
                               "192.168.1.1,fd00::/8,[fe80::1]:5000");
  for (const char* direct :
       {"http://a.example/", "http://x.a.example/", "http://x.b.example/", "http://x.c.example/",
        "http://d.example:8080/", "http://10.200.1.1/", "http://192.168.1.1:99/",
        "http://[fd12::1]/", "http://[fe80::1]:5000/"}) {
    EXPECT_EQ(Proxy(settings, direct), "") << direct;
  }
  for (const char* proxied :
       {"http://xa.example/", "http://b.example/", "http://d.example/", "http://11.0.0.1/",
        "http://192.168.1.2/", "http://[fe00::1]/", "http://[fe80::1]:5001/"}) {
    EXPECT_EQ(Proxy(settings, proxied), "http://p:1") << proxied;
  }
  EXPECT_EQ(Proxy(ProxySettings("http://p:1", "", "*"), "http://any.example/"), "");
}

}  // namespace
}  // namespace davit::images
