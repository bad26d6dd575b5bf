#include "cri/config.h"

#include <fcntl.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "cri/nearest.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

std::string Error(absl::string_view text) {
  const absl::StatusOr<Config> config = ParseConfig(text, "c.toml");
  if (config.ok()) return "(parsed)";
  EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(config.status().message());
}

TEST(ConfigTest, AnEmptyFileIsTheDefaults) {
  const absl::StatusOr<Config> config = ParseConfig("", "c.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(ConfigJson(*config), ConfigJson(Config()));
  EXPECT_EQ(config->socket_path(), "/run/davit/davit.sock");
}

TEST(ConfigTest, TheExampleFileIsTheDefaults) {
  const absl::StatusOr<std::string> text =
      sys::ReadFileAt(AT_FDCWD, "cri/config.example.toml", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  const absl::StatusOr<Config> config = ParseConfig(*text, "config.example.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(ConfigJson(*config), ConfigJson(Config()));
}

TEST(ConfigTest, TheExampleFilesCommentedKeysAreValidToo) {
  absl::StatusOr<std::string> text = sys::ReadFileAt(AT_FDCWD, "cri/config.example.toml", 1 << 20);
  ASSERT_TRUE(text.ok()) << text.status();
  std::string uncommented;
  for (size_t at = 0; at < text->size();) {
    const size_t end = std::min(text->find('\n', at), text->size() - 1);
    std::string line = text->substr(at, end - at + 1);
    at = end + 1;
    const bool key = absl::StartsWith(line, "# ") &&
                     (absl::StrContains(line, " = ") || absl::StartsWith(line, "# [registries.\""));
    // Prose may hold an equals sign as well; keys begin at once and hold no spaces before it.
    if (key && (line[2] == '[' || line.find(' ', 2) == line.find(" = "))) line = line.substr(2);
    uncommented += line;
  }
  const absl::StatusOr<Config> config = ParseConfig(uncommented, "config.example.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->helper_dir, "/usr/libexec/davit");
  ASSERT_EQ(config->registries.count("registry.example.com:5000"), 1u);
  EXPECT_EQ(config->registries.at("registry.example.com:5000").ca_file,
            "/etc/davit/example-ca.pem");
}

TEST(ConfigTest, EveryKeyArrives) {
  const absl::StatusOr<Config> config = ParseConfig(R"(
root = "/r"
state = "/s"
listen = "/l.sock"
log_level = "debug"
helper_dir = "/h"
cgroup_parent = "/pods"
netns_dir = "/n"
[containers]
refuse_missing_host_paths = true
unprivileged_ports = false
unprivileged_icmp = false
[logs]
buffer_kib = 64
when_full = "drop"
[cni]
conf_dir = "/c"
bin_dirs = ["/b1", "/b2"]
timeout_seconds = 7
[images]
max_parallel_layers = 5
keep_layer_blobs = true
stall_timeout_seconds = 8
pinned = ["pause:3.9"]
[registries."registry.k8s.io"]
mirrors = ["http://127.0.0.1:5000"]
[registries."a:5000"]
ca = "/ca.pem"
insecure_http = true
skip_verify = true
)",
                                                    "c.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->root, "/r");
  EXPECT_EQ(config->state, "/s");
  EXPECT_EQ(config->socket_path(), "/l.sock");
  EXPECT_EQ(config->log_level, LogLevel::kDebug);
  EXPECT_EQ(config->helper_dir, "/h");
  EXPECT_EQ(config->cgroup_parent, "/pods");
  EXPECT_EQ(config->netns_dir, "/n");
  EXPECT_TRUE(config->refuse_missing_host_paths);
  EXPECT_FALSE(config->unprivileged_ports);
  EXPECT_FALSE(config->unprivileged_icmp);
  EXPECT_EQ(config->log_buffer_size, 65536u);
  EXPECT_TRUE(config->log_drop_when_full);
  EXPECT_EQ(config->cni_conf_dir, "/c");
  EXPECT_EQ(config->cni_bin_dirs, (std::vector<std::string>{"/b1", "/b2"}));
  EXPECT_EQ(config->cni_timeout, absl::Seconds(7));
  EXPECT_EQ(config->max_parallel_layers, 5);
  EXPECT_TRUE(config->keep_layer_blobs);
  EXPECT_EQ(config->stall_timeout, absl::Seconds(8));
  EXPECT_EQ(config->pinned_images, std::vector<std::string>{"pause:3.9"});
  ASSERT_EQ(config->registries.size(), 2u);
  EXPECT_EQ(config->registries.at("registry.k8s.io").mirrors,
            std::vector<std::string>{"http://127.0.0.1:5000"});
  EXPECT_EQ(config->registries.at("a:5000").ca_file, "/ca.pem");
  EXPECT_TRUE(config->registries.at("a:5000").insecure_http);
  EXPECT_TRUE(config->registries.at("a:5000").skip_verify);
}

TEST(ConfigTest, AnUnknownKeyNamesTheNearestKnownOneAndItsPosition) {
  EXPECT_EQ(Error("root = \"/r\"\nsate = \"/s\"\n"),
            "c.toml:2:1: unknown key \"sate\"; the nearest known key is \"state\"");
  EXPECT_EQ(Error("[cni]\n  confdir = \"/s\"\n"),
            "c.toml:2:3: unknown key \"cni.confdir\"; the nearest known key is \"cni.conf_dir\"");
  EXPECT_EQ(Error("[registries.\"a\"]\nmirror = []\n"),
            "c.toml:2:1: unknown key \"registries.\"a\".mirror\"; the nearest known key is "
            "\"registries.\"a\".mirrors\"");
}

TEST(ConfigTest, WrongTypesAndRangesAreRefusedWithTheirPosition) {
  EXPECT_EQ(Error("[logs]\nwhen_full = \"dorp\"\n"),
            "c.toml:2:13: \"logs.when_full\": expected \"block\" or \"drop\", found \"dorp\"");
  EXPECT_EQ(Error("[logs]\nbuffer_kib = 1\n"),
            "c.toml:2:14: \"logs.buffer_kib\": expected 64 to 1048576, found 1");
  EXPECT_EQ(Error("root = 1\n"), "c.toml:1:8: \"root\": expected a string, found integer");
  EXPECT_EQ(Error("[images]\nkeep_layer_blobs = \"yes\"\n"),
            "c.toml:2:20: \"images.keep_layer_blobs\": expected true or false, found string");
  EXPECT_EQ(Error("[images]\nmax_parallel_layers = 0\n"),
            "c.toml:2:23: \"images.max_parallel_layers\": expected 1 to 64, found 0");
  EXPECT_EQ(Error("[images]\nmax_parallel_layers = 3.0\n"),
            "c.toml:2:23: \"images.max_parallel_layers\": expected an integer, found "
            "floating-point");
  EXPECT_EQ(Error("root = \"relative\"\n"),
            "c.toml:1:8: \"root\": expected an absolute path without \"..\", found \"relative\"");
  EXPECT_EQ(Error("cni = 3\n"), "c.toml:1:7: \"cni\": expected a table, found integer");
  EXPECT_TRUE(absl::StrContains(Error("log_level = \"loud\"\n"), "none of \"trace\""));
  for (const char* url : {"https://", "https:///v2", "https://user:pw@host/v2", "http://h?x"}) {
    const std::string error =
        Error(absl::StrCat("[registries.\"a\"]\nmirrors = [\"", url, "\"]\n"));
    EXPECT_TRUE(absl::StrContains(error, "expected a URL with a host")) << error;
    EXPECT_FALSE(absl::StrContains(error, "pw")) << error;
  }
  EXPECT_TRUE(absl::StrContains(Error("[registries.\"a\"]\nmirrors = [\"ftp://x\"]\n"),
                                "begins with http:// or https://"));
  EXPECT_TRUE(absl::StrContains(Error("[registries]\n\"https://a\" = {}\n"), "host[:port]"));
}

TEST(ConfigTest, DuplicateKeysAndSyntaxErrorsHaveTheirPosition) {
  EXPECT_TRUE(absl::StartsWith(Error("root = \"/a\"\nroot = \"/b\"\n"), "c.toml:2:"));
  EXPECT_TRUE(absl::StartsWith(Error("root = \n"), "c.toml:1:"));
}

TEST(ConfigTest, LettersBeyondAsciiBelongIntoStringsAndComments) {
  EXPECT_TRUE(absl::StartsWith(Error("gr\u00f6\u00dfe = 1\n"), "c.toml:1:"));
  EXPECT_TRUE(absl::StartsWith(Error("\u0490oot = \"/\"\n"), "c.toml:1:"));
  const auto config = ParseConfig("root = \"\"\"/\\\n \u00f6\"\"\"  # gro\u00df\n", "c.toml");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->root, "/\u00f6");
}

TEST(ConfigTest, AMissingFileIsTheDefaultsOnlyIfNobodyNamedIt) {
  EXPECT_TRUE(LoadConfig("/nonexistent/config.toml", true).ok());
  EXPECT_EQ(LoadConfig("/nonexistent/config.toml", false).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(NearestTest, CountsSwapsAndIgnoresCase) {
  const std::vector<std::string> words = {"mirrors", "ca", "state"};
  EXPECT_EQ(Nearest("sttae", words), "state");
  EXPECT_EQ(Nearest("Mirors", words), "mirrors");
  EXPECT_EQ(Nearest("x", {}), "");
}

}  // namespace
}  // namespace davit::cri
