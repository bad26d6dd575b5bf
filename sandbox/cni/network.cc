#include "sandbox/cni/network.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/unique_fd.h"
#include "sandbox/cni/arguments.h"
#include "sandbox/cni/config.h"
#include "sandbox/cni/invoke.h"
#include "sandbox/cni/record.h"
#include "sandbox/cni/result.h"

#ifndef NSFS_MAGIC
#define NSFS_MAGIC 0x6e736673
#endif

namespace davit::sandbox::cni {
namespace {

// The path, or "" where no namespace is bound (any more): after a reboot the file may be there
// still, where /run is not a tmpfs.
std::string LivingNamespace(const std::string& path) {
  struct statfs st;
  const bool alive =
      statfs(path.c_str(), &st) == 0 && (st.f_type == NSFS_MAGIC || st.f_type == PROC_SUPER_MAGIC);
  return alive ? path : "";
}

class PluginNetwork : public Network {
 public:
  PluginNetwork(NetworkOptions options, RecordStore records)
      : options_(std::move(options)), records_(std::move(records)), directory_(options_.conf_dir) {}

  absl::StatusOr<Result> Add(const Request& request, absl::Time deadline) override;
  absl::Status Del(const std::string& sandbox_id, absl::Time deadline,
                   const Request* known) override;
  absl::Status Check(const std::string& sandbox_id, absl::Time deadline) override;
  std::vector<StoredAttachment> List(std::vector<std::string>* broken) const override;
  NetworkStatus Status() override;
  std::string ConfigJson() override;

 private:
  absl::StatusOr<std::string> Run(const char* command, const PluginConfig& plugin,
                                  const NetworkConfig& config, const Record& record,
                                  const std::string& previous, int lock, absl::Time deadline);
  absl::StatusOr<Result> RunAdd(const NetworkConfig& config, const Record& record, int lock,
                                absl::Time deadline);
  absl::Status RunDel(const NetworkConfig& config, const Record& record, int lock,
                      absl::Time deadline);
  absl::Status DelUnread(const Request& known, int lock, absl::Time deadline);

  const NetworkOptions options_;
  const RecordStore records_;
  ConfigDirectory directory_;
};

absl::StatusOr<std::string> PluginNetwork::Run(const char* command, const PluginConfig& plugin,
                                               const NetworkConfig& config, const Record& record,
                                               const std::string& previous, int lock,
                                               absl::Time deadline) {
  Invocation invocation;
  invocation.plugin = plugin.type;
  invocation.bin_dirs = options_.bin_dirs;
  invocation.command = command;
  invocation.container_id = record.sandbox_id;
  invocation.netns = LivingNamespace(record.netns_path);
  invocation.interface = record.interface;
  invocation.args = record.cni_args;
  DAVIT_ASSIGN_OR_RETURN(invocation.input,
                         MakePluginInput(plugin.json, config.name, config.cni_version,
                                         record.capability_args, previous));
  invocation.lock_fd = lock;
  invocation.deadline = std::min(deadline, absl::Now() + options_.plugin_timeout);
  return Invoke(invocation);
}

absl::StatusOr<Result> PluginNetwork::RunAdd(const NetworkConfig& config, const Record& record,
                                             int lock, absl::Time deadline) {
  Result result;
  for (const PluginConfig& plugin : config.plugins) {
    DAVIT_ASSIGN_OR_RETURN(std::string printed,
                           Run("ADD", plugin, config, record, result.json, lock, deadline));
    auto ips = ParseResultIps(printed);
    if (!ips.ok()) {
      return absl::InternalError(
          absl::StrCat("CNI plugin ", plugin.type, ": ADD: ", ips.status().message()));
    }
    result.ips = *std::move(ips);
    result.json = std::move(printed);
  }
  if (result.ips.empty()) {
    return absl::InternalError(
        absl::StrCat("CNI network ", config.name, ": no plugin gave the pod an address"));
  }
  return result;
}

absl::Status PluginNetwork::RunDel(const NetworkConfig& config, const Record& record, int lock,
                                   absl::Time deadline) {
  absl::StatusCode code = absl::StatusCode::kOk;
  std::vector<std::string> failures;
  // "The result of the ADD" exists only if it succeeded as a whole, and for DEL from 0.4.0 on.
  const std::string previous =
      record.added && VersionAtLeast(config.cni_version, "0.4.0") ? record.result_json : "";
  for (auto plugin = config.plugins.rbegin(); plugin != config.plugins.rend(); ++plugin) {
    const auto printed = Run("DEL", *plugin, config, record, previous, lock, deadline);
    if (printed.ok()) continue;
    if (code == absl::StatusCode::kOk) code = printed.status().code();
    failures.emplace_back(printed.status().message());
  }
  return absl::Status(code, absl::StrJoin(failures, "; "));
}

// What can be said of an attachment before ADD.
absl::StatusOr<Record> MakeRecord(const Request& request, const NetworkConfig& config) {
  Record record;
  record.sandbox_id = request.sandbox_id;
  record.netns_path = request.netns_path;
  record.interface = request.interface;
  DAVIT_ASSIGN_OR_RETURN(record.cni_args, MakeCniArgs(request));
  DAVIT_ASSIGN_OR_RETURN(record.capability_args, MakeCapabilityArgs(request));
  record.config_json = config.json;
  record.config_file = config.file;
  return record;
}

absl::StatusOr<Result> PluginNetwork::Add(const Request& request, absl::Time deadline) {
  DAVIT_RETURN_IF_ERROR(CheckRequest(request));
  const auto config = directory_.Get();
  if (!config.ok()) return absl::UnavailableError(config.status().message());
  DAVIT_ASSIGN_OR_RETURN(Record record, MakeRecord(request, **config));
  if (LivingNamespace(record.netns_path).empty()) {
    return absl::FailedPreconditionError(absl::StrCat("attach sandbox ", record.sandbox_id, ": ",
                                                      record.netns_path,
                                                      " is not a network namespace"));
  }

  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd lock, records_.Lock(record.sandbox_id, deadline));
  if (!absl::IsNotFound(records_.Read(record.sandbox_id).status())) {
    return absl::AlreadyExistsError(
        absl::StrCat("sandbox ", record.sandbox_id, " is attached to a network already"));
  }
  if (const absl::Status written = records_.Write(record, sys::Durability::kPower); !written.ok()) {
    records_.RemoveLock(record.sandbox_id);
    return written;
  }
  auto result = RunAdd(**config, record, lock.get(), deadline);
  if (result.ok()) {
    record.added = true;
    record.result_json = result->json;
    // Its loss in a power cut costs nothing: the pod is gone then, and DEL does without the result.
    absl::Status written = records_.Write(record, sys::Durability::kProcess);
    if (written.ok()) return result;
    result = std::move(written);
  }
  // The caller's deadline may be what has failed the ADD; what was done must be undone all the
  // same.
  const absl::Status undone = RunDel(**config, record, lock.get(), absl::InfiniteFuture());
  if (!undone.ok()) {
    return absl::Status(result.status().code(),
                        absl::StrCat(result.status().message(),
                                     "; DEL afterwards has failed as well and will be repeated: ",
                                     undone.message()));
  }
  DAVIT_RETURN_IF_ERROR(records_.Remove(record.sandbox_id));
  return result;
}

absl::Status PluginNetwork::DelUnread(const Request& known, int lock, absl::Time deadline) {
  const auto config = directory_.Get();
  if (!config.ok()) return absl::UnavailableError(config.status().message());
  DAVIT_ASSIGN_OR_RETURN(const Record record, MakeRecord(known, **config));
  DAVIT_RETURN_IF_ERROR(RunDel(**config, record, lock, deadline));
  return records_.SetAside(known.sandbox_id);
}

absl::Status PluginNetwork::Del(const std::string& sandbox_id, absl::Time deadline,
                                const Request* known) {
  if (!IsContainerId(sandbox_id)) return absl::OkStatus();  // nothing can be stored for it
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd lock, records_.Lock(sandbox_id, deadline));
  const auto record = records_.Read(sandbox_id);
  if (absl::IsNotFound(record.status())) {
    records_.RemoveLock(sandbox_id);
    return absl::OkStatus();
  }
  if (!record.ok() && known != nullptr) return DelUnread(*known, lock.get(), deadline);
  DAVIT_RETURN_IF_ERROR(record.status());
  DAVIT_ASSIGN_OR_RETURN(
      const NetworkConfig config,
      ParseNetworkConfig(record->config_json, record->config_file, /*single=*/false));
  DAVIT_RETURN_IF_ERROR(RunDel(config, *record, lock.get(), deadline));
  return records_.Remove(sandbox_id);
}

absl::Status PluginNetwork::Check(const std::string& sandbox_id, absl::Time deadline) {
  auto unknown = [&] {
    return absl::NotFoundError(absl::StrCat("sandbox ", sandbox_id, " has no network attachment"));
  };
  if (!IsContainerId(sandbox_id)) return unknown();
  DAVIT_ASSIGN_OR_RETURN(const sys::UniqueFd lock, records_.Lock(sandbox_id, deadline));
  const auto record = records_.Read(sandbox_id);
  if (absl::IsNotFound(record.status())) {
    records_.RemoveLock(sandbox_id);
    return unknown();
  }
  DAVIT_RETURN_IF_ERROR(record.status());
  if (!record->added) {
    return absl::FailedPreconditionError(
        absl::StrCat("sandbox ", sandbox_id, ": its ADD did not complete"));
  }
  DAVIT_ASSIGN_OR_RETURN(
      const NetworkConfig config,
      ParseNetworkConfig(record->config_json, record->config_file, /*single=*/false));
  if (config.disable_check || !VersionAtLeast(config.cni_version, "0.4.0")) {
    return absl::OkStatus();
  }
  for (const PluginConfig& plugin : config.plugins) {
    DAVIT_RETURN_IF_ERROR(
        Run("CHECK", plugin, config, *record, record->result_json, lock.get(), deadline).status());
  }
  return absl::OkStatus();
}

std::vector<StoredAttachment> PluginNetwork::List(std::vector<std::string>* broken) const {
  std::vector<StoredAttachment> attachments;
  for (Record& record : records_.List(broken)) {
    StoredAttachment attachment;
    attachment.sandbox_id = std::move(record.sandbox_id);
    attachment.netns_path = std::move(record.netns_path);
    attachment.interface = std::move(record.interface);
    attachment.added = record.added;
    if (auto config = ParseNetworkConfig(record.config_json, record.config_file, false);
        config.ok()) {
      attachment.network = config->name;
    }
    if (record.added) {
      if (auto ips = ParseResultIps(record.result_json); ips.ok()) attachment.ips = *std::move(ips);
      attachment.result_json = std::move(record.result_json);
    }
    attachments.push_back(std::move(attachment));
  }
  return attachments;
}

NetworkStatus PluginNetwork::Status() {
  constexpr char kNotReady[] = "NetworkPluginNotReady";
  const auto config = directory_.Get();
  if (!config.ok()) return {false, kNotReady, std::string(config.status().message())};
  for (const PluginConfig& plugin : (*config)->plugins) {
    const auto path = FindPlugin(plugin.type, options_.bin_dirs);
    if (!path.ok()) return {false, kNotReady, std::string(path.status().message())};
  }
  return {true, "", ""};
}

std::string PluginNetwork::ConfigJson() {
  const auto config = directory_.Get();
  return config.ok() ? (*config)->json : "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Network>> Network::Open(NetworkOptions options) {
  DAVIT_ASSIGN_OR_RETURN(RecordStore records, RecordStore::Open(options.state_dir));
  return std::make_unique<PluginNetwork>(std::move(options), std::move(records));
}

}  // namespace davit::sandbox::cni
