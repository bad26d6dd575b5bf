#include "cri/config.h"

#include <fcntl.h>

#include <cstdint>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "cri/nearest.h"
#include "nlohmann/json.hpp"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

// Parse errors come back as values: this code base throws nothing.
#define TOML_EXCEPTIONS 0
// It asserts that text is well-formed which it goes on to check and to reject: a typing error must
// not end a debug build of the daemon.
#define TOML_ASSERT(expression) static_assert(true)
#include "toml++/toml.h"

namespace davit::cri {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;

// Takes one value; its error says what is wrong with it, without name or position.
using Setter = std::function<absl::Status(const toml::node&)>;
using Schema = std::map<std::string, Setter>;

absl::Status Wrong(absl::string_view expected, const toml::node& node) {
  return absl::InvalidArgumentError(absl::StrCat(
      "expected ", expected, ", found ",
      absl::string_view(
          toml::impl::node_type_friendly_names[static_cast<size_t>(node.type())].data(),
          toml::impl::node_type_friendly_names[static_cast<size_t>(node.type())].size())));
}

Setter String(std::string* target) {
  return [target](const toml::node& node) {
    const auto value = node.value_exact<std::string>();
    if (!value) return Wrong("a string", node);
    if (value->find('\0') != std::string::npos) {
      return absl::InvalidArgumentError("must not contain a NUL byte");
    }
    *target = *value;
    return absl::OkStatus();
  };
}

// An absolute path without ".." and trailing slash.
absl::Status CheckPath(const std::string& path) {
  if (path.empty() || path[0] != '/' || absl::StrContains(path, "/../") ||
      absl::EndsWith(path, "/..")) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected an absolute path without \"..\", found \"", path, "\""));
  }
  return absl::OkStatus();
}

Setter Path(std::string* target) {
  return [target](const toml::node& node) {
    DAVIT_RETURN_IF_ERROR(String(target)(node));
    return CheckPath(*target);
  };
}

Setter Boolean(bool* target) {
  return [target](const toml::node& node) {
    const auto value = node.value_exact<bool>();
    if (!value) return Wrong("true or false", node);
    *target = *value;
    return absl::OkStatus();
  };
}

Setter Integer(int64_t low, int64_t high, std::function<void(int64_t)> set) {
  return [low, high, set = std::move(set)](const toml::node& node) {
    const auto value = node.value_exact<int64_t>();
    if (!value) return Wrong("an integer", node);
    if (*value < low || *value > high) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected ", low, " to ", high, ", found ", *value));
    }
    set(*value);
    return absl::OkStatus();
  };
}

Setter Seconds(int64_t low, int64_t high, absl::Duration* target) {
  return Integer(low, high, [target](int64_t value) { *target = absl::Seconds(value); });
}

Setter Strings(std::vector<std::string>* target,
               std::function<absl::Status(const std::string&)> check) {
  return [target, check = std::move(check)](const toml::node& node) {
    const toml::array* array = node.as_array();
    if (array == nullptr) return Wrong("an array of strings", node);
    std::vector<std::string> values;
    for (const toml::node& element : *array) {
      std::string value;
      DAVIT_RETURN_IF_ERROR(String(&value)(element));
      DAVIT_RETURN_IF_ERROR(check(value));
      values.push_back(std::move(value));
    }
    *target = std::move(values);
    return absl::OkStatus();
  };
}

absl::Status CheckMirror(const std::string& url) {
  if (!absl::StartsWith(url, "http://") && !absl::StartsWith(url, "https://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a URL that begins with http:// or https://, found \"", url, "\""));
  }
  const size_t host = url.find("://") + 3;
  const std::string authority = url.substr(host, url.find('/', host) - host);
  // The configuration is shown to whoever asks: a password does not belong into it.
  if (authority.empty() || authority.find_first_of("@ ?#") != std::string::npos) {
    return absl::InvalidArgumentError(
        "expected a URL with a host and without user name, password or query");
  }
  return absl::OkStatus();
}

absl::Status CheckNotEmpty(const std::string& value) {
  return value.empty() ? absl::InvalidArgumentError("must not be empty") : absl::OkStatus();
}

class Parser {
 public:
  explicit Parser(absl::string_view name) : name_(name) {}

  absl::Status Fail(const toml::source_region& source, absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(name_, ":", source.begin.line, ":", source.begin.column, ": ", what));
  }

  // Every key of `table` must be in `schema`. `path` is "" or "cni.".
  absl::Status Apply(const toml::table& table, const Schema& schema,
                     const std::string& path) const {
    for (const auto& [key, node] : table) {
      const std::string shown = absl::StrCat(path, std::string(key.str()));
      const auto found = schema.find(std::string(key.str()));
      if (found == schema.end()) {
        std::vector<std::string> known;
        for (const auto& [name, setter] : schema) known.push_back(name);
        return Fail(key.source(),
                    absl::StrCat("unknown key \"", shown, "\"; the nearest known key is \"", path,
                                 Nearest(std::string(key.str()), known), "\""));
      }
      absl::Status status = found->second(node);
      if (status.ok()) continue;
      // A table's own errors have their position already.
      if (absl::StartsWith(status.message(), absl::StrCat(name_, ":"))) return status;
      return Fail(node.source(), absl::StrCat("\"", shown, "\": ", status.message()));
    }
    return absl::OkStatus();
  }

  Setter Table(std::string path, Schema schema) const {
    return [this, path = std::move(path), schema = std::move(schema)](const toml::node& node) {
      const toml::table* table = node.as_table();
      if (table == nullptr) return Wrong("a table", node);
      return Apply(*table, schema, path);
    };
  }

  Setter Registries(std::map<std::string, images::RegistryOptions>* registries) const {
    return [this, registries](const toml::node& node) {
      const toml::table* table = node.as_table();
      if (table == nullptr) return Wrong("a table", node);
      for (const auto& [key, value] : *table) {
        const std::string host(key.str());
        if (host.empty() || host.find('/') != std::string::npos) {
          return Fail(key.source(), absl::StrCat("\"registries.", host,
                                                 "\": expected a registry's host[:port], as in "
                                                 "image references"));
        }
        images::RegistryOptions options;
        const Schema schema = {
            {"mirrors", Strings(&options.mirrors, CheckMirror)},
            {"ca", Path(&options.ca_file)},
            {"insecure_http", Boolean(&options.insecure_http)},
            {"skip_verify", Boolean(&options.skip_verify)},
        };
        absl::Status status = Table(absl::StrCat("registries.\"", host, "\"."), schema)(value);
        if (!status.ok()) {
          return absl::StartsWith(status.message(), absl::StrCat(name_, ":"))
                     ? status
                     : Fail(value.source(), status.message());
        }
        registries->emplace(host, std::move(options));
      }
      return absl::OkStatus();
    };
  }

 private:
  const std::string name_;
};

Setter LogLevelSetter(LogLevel* target) {
  return [target](const toml::node& node) {
    std::string name;
    DAVIT_RETURN_IF_ERROR(String(&name)(node));
    DAVIT_ASSIGN_OR_RETURN(*target, ParseLogLevel(name));
    return absl::OkStatus();
  };
}

Setter WhenFull(bool* drop) {
  return [drop](const toml::node& node) {
    std::string choice;
    DAVIT_RETURN_IF_ERROR(String(&choice)(node));
    if (choice != "block" && choice != "drop") {
      return absl::InvalidArgumentError(
          absl::StrCat("expected \"block\" or \"drop\", found \"", choice, "\""));
    }
    *drop = choice == "drop";
    return absl::OkStatus();
  };
}

}  // namespace

absl::StatusOr<Config> ParseConfig(absl::string_view text, absl::string_view name) {
  const Parser parser(name);
  const toml::parse_result parsed = toml::parse(std::string_view(text.data(), text.size()),
                                                std::string_view(name.data(), name.size()));
  if (!parsed) {
    const std::string_view what = parsed.error().description();
    return parser.Fail(parsed.error().source(), absl::string_view(what.data(), what.size()));
  }
  Config config;
  const Schema schema = {
      {"root", Path(&config.root)},
      {"state", Path(&config.state)},
      {"listen", Path(&config.listen)},
      {"log_level", LogLevelSetter(&config.log_level)},
      {"helper_dir", Path(&config.helper_dir)},
      {"cgroup_parent", Path(&config.cgroup_parent)},
      {"netns_dir", Path(&config.netns_dir)},
      {"containers",
       parser.Table("containers.",
                    {
                        {"refuse_missing_host_paths", Boolean(&config.refuse_missing_host_paths)},
                        {"unprivileged_ports", Boolean(&config.unprivileged_ports)},
                        {"unprivileged_icmp", Boolean(&config.unprivileged_icmp)},
                    })},
      {"logs", parser.Table("logs.",
                            {
                                {"when_full", WhenFull(&config.log_drop_when_full)},
                                {"buffer_kib", Integer(64, 1024 * 1024,
                                                       [&config](int64_t value) {
                                                         config.log_buffer_size =
                                                             static_cast<uint64_t>(value) * 1024;
                                                       })},
                            })},
      {"cni", parser.Table("cni.",
                           {
                               {"conf_dir", Path(&config.cni_conf_dir)},
                               {"bin_dirs", Strings(&config.cni_bin_dirs, CheckPath)},
                               {"timeout_seconds", Seconds(1, 3600, &config.cni_timeout)},
                           })},
      {"images",
       parser.Table("images.",
                    {
                        {"max_parallel_layers", Integer(1, 64,
                                                        [&config](int64_t value) {
                                                          config.max_parallel_layers =
                                                              static_cast<int>(value);
                                                        })},
                        {"keep_layer_blobs", Boolean(&config.keep_layer_blobs)},
                        {"stall_timeout_seconds", Seconds(1, 86400, &config.stall_timeout)},
                        {"pinned", Strings(&config.pinned_images, CheckNotEmpty)},
                    })},
      {"registries", parser.Registries(&config.registries)},
  };
  DAVIT_RETURN_IF_ERROR(parser.Apply(parsed.table(), schema, ""));
  return config;
}

absl::StatusOr<Config> LoadConfig(const std::string& path, bool may_be_missing) {
  const absl::StatusOr<std::string> text = sys::ReadFileAt(AT_FDCWD, path, kMaxConfigBytes);
  if (absl::IsNotFound(text.status()) && may_be_missing) return Config();
  if (!text.ok()) return sys::Annotate(text.status(), "reading the configuration");
  return ParseConfig(*text, path);
}

std::string ConfigJson(const Config& config) {
  using nlohmann::json;
  json registries = json::object();
  for (const auto& [host, options] : config.registries) {
    registries[host] = {{"mirrors", options.mirrors},
                        {"ca", options.ca_file},
                        {"insecureHttp", options.insecure_http},
                        {"skipVerify", options.skip_verify}};
  }
  const json document = {
      {"rootDir", config.root},
      {"stateDir", config.state},
      {"listen", config.socket_path()},
      {"helperDir", config.helper_dir},
      {"cgroupParent", config.cgroup_parent},
      {"netnsDir", config.netns_dir},
      {"containers",
       {{"refuseMissingHostPaths", config.refuse_missing_host_paths},
        {"unprivilegedPorts", config.unprivileged_ports},
        {"unprivilegedIcmp", config.unprivileged_icmp}}},
      {"logs",
       {{"whenFull", config.log_drop_when_full ? "drop" : "block"},
        {"bufferKib", config.log_buffer_size / 1024}}},
      {"cni",
       {{"confDir", config.cni_conf_dir},
        {"binDirs", config.cni_bin_dirs},
        {"timeoutSeconds", absl::ToInt64Seconds(config.cni_timeout)}}},
      {"images",
       {{"maxParallelLayers", config.max_parallel_layers},
        {"keepLayerBlobs", config.keep_layer_blobs},
        {"stallTimeoutSeconds", absl::ToInt64Seconds(config.stall_timeout)},
        {"pinned", config.pinned_images}}},
      {"registries", registries},
  };
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace davit::cri
