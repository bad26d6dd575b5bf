#include "cri/process.h"

#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace davit::cri {
namespace {

constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

bool HasNul(const std::string& text) { return text.find('\0') != std::string::npos; }

// Keeps the order of first appearance and the last value.
class Environment {
 public:
  void Set(const std::string& name, const std::string& value) {
    const auto [it, added] = index_.emplace(name, entries_.size());
    if (added) entries_.emplace_back();
    entries_[it->second] = absl::StrCat(name, "=", value);
  }
  std::vector<std::string> Take() { return std::move(entries_); }

 private:
  std::map<std::string, size_t> index_;
  std::vector<std::string> entries_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> BuildArgs(const ProcessRequest& request,
                                                   const images::ImageConfig& image) {
  std::vector<std::string> args = request.command;
  if (request.command.empty()) args = image.entrypoint;
  const std::vector<std::string>& rest =
      request.command.empty() && request.args.empty() ? image.cmd : request.args;
  args.insert(args.end(), rest.begin(), rest.end());
  if (args.empty() || args[0].empty()) {
    return absl::InvalidArgumentError(
        "no command: neither the container nor its image says what to run");
  }
  for (const std::string& arg : args) {
    if (HasNul(arg)) return absl::InvalidArgumentError("an argument contains a NUL byte");
  }
  return args;
}

absl::StatusOr<std::vector<std::string>> BuildEnvironment(const ProcessRequest& request,
                                                          const images::ImageConfig& image) {
  Environment environment;
  environment.Set("PATH", kDefaultPath);
  environment.Set("HOSTNAME", request.hostname);
  if (request.tty) environment.Set("TERM", "xterm");
  environment.Set("HOME", request.home);
  for (const std::string& entry : image.env) {
    const size_t equals = entry.find('=');
    if (equals == 0 || equals == std::string::npos || HasNul(entry)) continue;
    environment.Set(entry.substr(0, equals), entry.substr(equals + 1));
  }
  for (const auto& [name, value] : request.envs) {
    if (name.empty() || absl::StrContains(name, "=") || HasNul(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", absl::string_view(name).substr(0, 256),
                       "\" cannot be the name of an environment variable"));
    }
    if (HasNul(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the value of environment variable ", name, " contains a NUL byte"));
    }
    environment.Set(name, value);
  }
  return environment.Take();
}

absl::StatusOr<std::string> ChooseWorkingDir(const ProcessRequest& request,
                                             const images::ImageConfig& image) {
  if (!request.working_dir.empty()) {
    if (request.working_dir[0] != '/' || HasNul(request.working_dir)) {
      return absl::InvalidArgumentError(
          absl::StrCat("working_dir \"", absl::string_view(request.working_dir).substr(0, 256),
                       "\" is not an absolute path"));
    }
    return request.working_dir;
  }
  if (image.working_dir.empty() || HasNul(image.working_dir)) return std::string("/");
  // Old build tools wrote "app" and meant "/app".
  return image.working_dir[0] == '/' ? image.working_dir : absl::StrCat("/", image.working_dir);
}

}  // namespace davit::cri
