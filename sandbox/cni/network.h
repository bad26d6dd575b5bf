#ifndef DAVIT_SANDBOX_CNI_NETWORK_H_
#define DAVIT_SANDBOX_CNI_NETWORK_H_

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "sandbox/manager.h"

// Pod networks through CNI plugins (CNI specification 1.1.0). Plugins are other people's programs:
// each is run in its own process group with a deadline, and what it prints is bounded.
namespace davit::sandbox::cni {

// What is to be attached: a pod's network namespace.
struct Request {
  std::string sandbox_id;                  // CNI_CONTAINERID; [a-zA-Z0-9][a-zA-Z0-9_.-]*
  std::string netns_path;                  // CNI_NETNS
  std::string interface = "eth0";          // CNI_IFNAME
  std::string pod_name;                    // K8S_POD_NAME
  std::string pod_namespace;               // K8S_POD_NAMESPACE
  std::string pod_uid;                     // K8S_POD_UID
  std::vector<PortMapping> port_mappings;  // those without a host port are left out
  std::optional<DnsConfig> dns;            // capability "dns"
  // kubernetes.io/ingress-bandwidth and egress-bandwidth become capability "bandwidth".
  std::map<std::string, std::string> annotations;
};

// What ADD gave.
struct Result {
  std::vector<std::string> ips;  // the pod's, without prefix length, in the order of the plugins
  std::string json;              // the last plugin's result as it printed it
};

// A stored attachment: something that DEL is owed for.
struct StoredAttachment {
  std::string sandbox_id;
  std::string netns_path;
  std::string interface;
  std::string network;  // its name in the configuration
  bool added = false;   // ADD succeeded as a whole; false: it failed, or was cut short by a crash
  std::string result_json;  // of ADD, if added
  std::vector<std::string> ips;
};

struct NetworkOptions {
  std::string conf_dir;               // *.conflist, *.conf, *.json; the first by name is used
  std::vector<std::string> bin_dirs;  // searched in order, and CNI_PATH for plugins that delegate
  std::string state_dir;              // <root>/cni: one record for each attachment
  absl::Duration plugin_timeout = absl::Minutes(2);  // for each plugin of a chain
};

// Thread-safe. Calls block for as long as plugins run, and for different sandboxes run at the same
// time. Calls for one sandbox are serialized, across a restart of the daemon as well: a plugin
// inherits a lock on the sandbox's record, so that a new daemon's DEL waits for the ADD of the old
// one to end.
class Network {
 public:
  // Makes the state directory; reads nothing yet. A missing or broken configuration is no error
  // here: see Status.
  static absl::StatusOr<std::unique_ptr<Network>> Open(NetworkOptions options);
  virtual ~Network() = default;

  // Attaches the namespace to the network: the record is on disk (and survives a power cut) before
  // the first plugin runs. The plugins run in order, each with the result of the one before.
  // If one fails, DEL has been run for all of them in reverse order when this returns the error; if
  // that fails as well the record stays, and Del is owed (the error says so).
  // Unavailable: no usable configuration. AlreadyExists: the sandbox has an attachment.
  // DeadlineExceeded: a plugin took too long and was killed. InvalidArgument: a malformed id.
  // Otherwise the plugin's own message.
  virtual absl::StatusOr<Result> Add(const Request& request, absl::Time deadline) = 0;

  // Runs DEL for every plugin in reverse order with the configuration that ADD was run with, even
  // after one of them fails, and removes the record if all succeeded. The namespace may be gone
  // (CNI_NETNS is empty then, as the specification has it). An unknown sandbox is success.
  // On failure the record stays and the call can be repeated; the error lists every failure.
  // A record that cannot be read: DEL is run with the present configuration and what `known` says
  // of the sandbox, and the file set aside; without `known`, DataLoss or FailedPrecondition.
  virtual absl::Status Del(const std::string& sandbox_id, absl::Time deadline,
                           const Request* known = nullptr) = 0;

  // Asks the plugins whether the attachment is still as ADD left it (CHECK, specification >= 0.4.0;
  // OK without asking for older ones and where the configuration disables it).
  // NotFound for an unknown sandbox.
  virtual absl::Status Check(const std::string& sandbox_id, absl::Time deadline) = 0;

  // Every stored attachment, for recovery: Del is owed for each whose pod is not there (any more).
  // A record that cannot be read is kept, and reported by its file name in `broken` unless null.
  virtual std::vector<StoredAttachment> List(std::vector<std::string>* broken = nullptr) const = 0;

  // Ready, or why not. Cheap: the directory is read again only after it has changed.
  virtual NetworkStatus Status() = 0;

  // The configuration list in use, as JSON; "" without one.
  virtual std::string ConfigJson() = 0;
};

}  // namespace davit::sandbox::cni

#endif  // DAVIT_SANDBOX_CNI_NETWORK_H_
