#include "cri/options.h"

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"

namespace davit::cri {
namespace {

absl::Status SetPath(const char* flag, const std::optional<std::string>& value,
                     std::string* target) {
  if (!value) return absl::OkStatus();
  if (!absl::StartsWith(*value, "/") || absl::StrContains(*value, "/../") ||
      absl::EndsWith(*value, "/..")) {
    return absl::InvalidArgumentError(
        absl::StrCat(flag, ": expected an absolute path without \"..\", found \"", *value, "\""));
  }
  *target = *value;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Options> ParseOptions(int argc, const char* const* argv) {
  Options options;
  CLI::App app(
      "davitd, the daemon of the Davit container runtime: serves the Kubernetes CRI v1 on "
      "a unix socket.",
      "davitd");
  app.add_option("--config", options.config_path,
                 absl::StrCat("configuration file (default ", kDefaultConfigPath, ")"));
  app.add_flag("--check-config", options.check_config,
               "check the configuration, say what is wrong with it, and end");
  app.add_flag("--version", options.version, "print the version and end");
  // Hidden: nobody but a test wants them.
  app.add_flag("--list-steps", options.list_steps, "")->group("");
  app.add_option("--faults", options.faults_path, "")->group("");
  app.add_option("--root", options.root, "directory of images and writable layers");
  app.add_option("--state", options.state, "directory of pods and sockets");
  app.add_option("--listen", options.listen, "unix socket to serve on");
  app.add_option("--log-level", options.log_level, "trace, debug, info, warn or error");
  app.add_option("--helper-dir", options.helper_dir,
                 "directory of davit-pod, davit-init and davit-unpack");
  app.add_option("--cgroup-parent", options.cgroup_parent, "cgroup of pods without a parent");
  app.add_option("--netns-dir", options.netns_dir, "where network namespaces are bound");
  app.add_option("--cni-conf-dir", options.cni_conf_dir, "directory of CNI configurations");
  app.add_option("--cni-bin-dir", options.cni_bin_dirs,
                 "directory of CNI plugins; may be given several times");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    options.help = app.help();
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  return options;
}

absl::StatusOr<Config> EffectiveConfig(const Options& options) {
  DAVIT_ASSIGN_OR_RETURN(Config config, LoadConfig(options.config_path.value_or(kDefaultConfigPath),
                                                   !options.config_path.has_value()));
  DAVIT_RETURN_IF_ERROR(SetPath("--root", options.root, &config.root));
  DAVIT_RETURN_IF_ERROR(SetPath("--state", options.state, &config.state));
  DAVIT_RETURN_IF_ERROR(SetPath("--listen", options.listen, &config.listen));
  DAVIT_RETURN_IF_ERROR(SetPath("--helper-dir", options.helper_dir, &config.helper_dir));
  DAVIT_RETURN_IF_ERROR(SetPath("--cgroup-parent", options.cgroup_parent, &config.cgroup_parent));
  DAVIT_RETURN_IF_ERROR(SetPath("--netns-dir", options.netns_dir, &config.netns_dir));
  DAVIT_RETURN_IF_ERROR(SetPath("--cni-conf-dir", options.cni_conf_dir, &config.cni_conf_dir));
  if (options.faults_path.has_value()) {
    DAVIT_RETURN_IF_ERROR(SetPath("--faults", options.faults_path, &config.faults_path));
  }
  if (!options.cni_bin_dirs.empty()) {
    config.cni_bin_dirs.clear();
    for (const std::string& dir : options.cni_bin_dirs) {
      DAVIT_RETURN_IF_ERROR(SetPath("--cni-bin-dir", dir, &config.cni_bin_dirs.emplace_back()));
    }
  }
  if (options.log_level) {
    DAVIT_ASSIGN_OR_RETURN(config.log_level, ParseLogLevel(*options.log_level));
  }
  if (config.root == config.state) {
    return absl::InvalidArgumentError(
        absl::StrCat("root and state must be different directories, both are ", config.root));
  }
  return config;
}

}  // namespace davit::cri
