#ifndef DAVIT_SANDBOX_MANAGER_H_
#define DAVIT_SANDBOX_MANAGER_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "images/image_service.h"
#include "runtime/spec/spec.h"
#include "runtime/sys/features.h"
#include "runtime/sys/steps.h"
#include "runtime/sys/unique_fd.h"

// Pods and their containers: the life of each from creation to removal, across restarts of the
// daemon. This layer knows no CRI message; what the CRI layer needs to describe a pod or container
// again is a Metadata object that travels with it and is stored beside it.
namespace davit::sandbox {

// What the layer above keeps with a pod or container. Immutable and shared.
class Metadata {
 public:
  virtual ~Metadata() = default;
  virtual std::string Serialize() const = 0;
};
using MetadataPtr = std::shared_ptr<const Metadata>;

// Rebuilds Metadata from what Serialize gave.
struct MetadataCodec {
  std::function<absl::StatusOr<MetadataPtr>(absl::string_view)> parse_pod;
  std::function<absl::StatusOr<MetadataPtr>(absl::string_view)> parse_container;
};

enum class NamespaceMode { kPod, kContainer, kNode, kTarget };

struct DnsConfig {
  std::vector<std::string> servers;
  std::vector<std::string> searches;
  std::vector<std::string> options;
};

struct PortMapping {
  std::string protocol;  // "tcp", "udp", "sctp"
  int32_t container_port = 0;
  int32_t host_port = 0;  // 0 = none
  std::string host_ip;
};

struct PodSpec {
  std::string name_key;  // "name_namespace_uid_attempt": one pod of a key at a time
  std::string name;
  std::string name_space;
  std::string uid;
  std::string hostname;       // "" with host network: the node's
  std::string cgroup_parent;  // as the kubelet gives it; "" = the configured default
  NamespaceMode network = NamespaceMode::kPod;
  NamespaceMode ipc = NamespaceMode::kPod;
  NamespaceMode pid = NamespaceMode::kPod;  // kPod: shared by the containers; kContainer: one each
  // Not empty: the pod and its containers get a user namespace of their own with these.
  std::vector<runtime::spec::IdMapping> uid_mappings;
  std::vector<runtime::spec::IdMapping> gid_mappings;
  std::map<std::string, std::string> sysctls;
  std::optional<DnsConfig> dns;  // absent: the node's resolv.conf
  std::vector<PortMapping> port_mappings;
  std::map<std::string, std::string>
      annotations;  // for bandwidth (kubernetes.io/ingress-bandwidth)
  std::string runtime_handler;
  MetadataPtr metadata;
};

enum class PodState { kReady, kNotReady };

// A snapshot; later changes make new ones.
struct PodView {
  std::string id;
  PodState state = PodState::kNotReady;
  std::string reason;            // "" or "SupervisorLost"
  int64_t created_at = 0;        // ns since the epoch
  std::vector<std::string> ips;  // the pod's first address first; empty with host network
  std::string netns_path;        // "" with host network
  std::string cgroup_path;       // "/kubepods/.../pod<uid>"
  std::string cni_result;        // JSON of the last ADD, for `inspectp`
  int32_t pid = 0;               // supervisor
  std::string runtime_handler;
  // Host paths of the pod's files, to be mounted into its containers.
  std::string hostname_path;
  std::string hosts_path;
  std::string resolv_conf_path;
  PodSpec spec;
  MetadataPtr metadata;
};

enum class ContainerState { kCreated, kRunning, kExited, kUnknown };

struct ContainerSpec {
  std::string name_key;  // "name_podname_namespace_uid_attempt"
  std::string pod_id;
  std::string image_id;
  // The bundle. root.path is ignored: the rootfs is an overlay over the image's layers.
  // Namespaces: pid/ipc/uts/network entries are filled in by the manager from the pod; cgroupsPath
  // too.
  runtime::spec::Spec spec;
  NamespaceMode pid = NamespaceMode::kPod;
  std::string pid_target;  // container id, with kTarget
  std::string log_path;    // absolute; "" = no log
  bool stdin = false;
  bool stdin_once = false;
  bool tty = false;
  int stop_signal = 15;  // Linux number
  MetadataPtr metadata;
};

struct ContainerView {
  std::string id;
  std::string pod_id;
  std::string image_id;
  ContainerState state = ContainerState::kUnknown;
  int64_t created_at = 0;
  int64_t started_at = 0;
  int64_t finished_at = 0;
  int32_t exit_code = 0;
  std::string reason;  // Completed, Error, OOMKilled, StartError, SupervisorLost
  std::string message;
  int32_t pid = 0;
  std::string log_path;
  std::string bundle_dir;   // holds config.json
  std::string cgroup_path;  // relative to each hierarchy's mount
  std::string upper_dir;    // the writable layer
  int stop_signal = 15;
  // Why its log cannot be written, "" if it can; and how much of the output was dropped since the
  // container was created.
  std::string log_error;
  uint64_t log_dropped_lines = 0;
  uint64_t log_dropped_bytes = 0;
  MetadataPtr metadata;
};

struct ExecSpec {
  std::string container_id;
  std::vector<std::string> command;
  bool tty = false;
  absl::Duration timeout = absl::InfiniteDuration();
  // Bytes kept of stdout and stderr together; the rest is dropped. 0 = 15 MiB, which fits a
  // client's message limit.
  size_t output_limit = 0;
};

struct ExecResult {
  std::string out;
  std::string err;
  int32_t exit_code = 0;
};

enum class Severity { kInfo, kWarning, kError };

struct ManagerOptions {
  std::string root;                      // /var/lib/davit
  std::string state;                     // /run/davit
  std::string supervisor;                // path of davit-pod, read into a sealed memfd at start
  std::string init;                      // path of davit-init, likewise
  std::string cgroup_parent = "/davit";  // for pods without one
  std::string netns_dir = "/run/netns";
  std::string cni_conf_dir = "/etc/cni/net.d";
  std::vector<std::string> cni_bin_dirs = {"/usr/lib/cni", "/opt/cni/bin"};
  absl::Duration cni_timeout = absl::Minutes(2);
  bool refuse_missing_host_paths = false;  // else they are created 0755
  // Of each log, what waits in memory for its disk; and whether output beyond that is dropped and
  // counted, or blocks the payload.
  uint64_t log_buffer_size = 1024 * 1024;
  bool log_drop_when_full = false;
  // How long a supervisor may take to carry out SIGKILL, and then to answer at all, before it is
  // taken for hung and killed itself (its pod is then lost).
  absl::Duration supervisor_patience = absl::Seconds(10);
  // Supervisors that run another davit-pod than `supervisor` get this one, in place, when they are
  // reached. One that cannot execute this davitd's plans, or does not speak its protocol, is
  // upgraded in any case before it is asked to.
  bool upgrade_supervisors = true;
  // For tests: whoever serves a supervisor's socket is taken for it, whatever program he runs.
  bool trust_any_supervisor = false;
  // What an operator should read: limits of this node, said once at start; records set aside;
  // supervisors lost; network teardown that failed and is retried. Called from any thread, must not
  // call back into the manager. Empty: nothing is said.
  std::function<void(Severity, const std::string&)> report;
  // What the kernel can do; probed by Open where it is not given.
  std::optional<sys::KernelFeatures> features;
  // For tests: what steps have to suffer. Borrowed; null: nothing.
  sys::Faults* faults = nullptr;
};

struct NetworkStatus {
  bool ready = false;
  std::string reason;  // "NetworkPluginNotReady"
  std::string message;
};

using DoneCallback = std::function<void(absl::Status)>;

// Thread-safe. Calls that may wait for a payload or a person (stop, exec) take a callback, which is
// called exactly once from a thread of the manager's own and must not block; the others block for
// milliseconds, or for as long as CNI plugins take, up to their time-outs.
class Manager {
 public:
  virtual ~Manager() = default;

  // Locks the state directory (FailedPrecondition, with the holder's pid, if another process has
  // it), reads every record, reconnects to the supervisors and only then returns: from the first
  // list on no pod is missing. Re-pins the layers of the containers that it finds and then calls
  // images->StartGarbageCollection(). `images` must outlive the manager.
  static absl::StatusOr<std::unique_ptr<Manager>> Open(ManagerOptions options, MetadataCodec codec,
                                                       images::ImageService* images);

  // The steps of every operation by their names, for fault injection.
  static std::vector<sys::OperationSteps> Steps();

  // Creates and starts a pod; returns its id. AlreadyExists while another pod has the name key.
  // On failure nothing is left.
  virtual absl::StatusOr<std::string> RunPod(PodSpec spec) = 0;
  // Kills the containers, takes the network down (CNI DEL), marks the pod not ready. Idempotent;
  // unknown: OK.
  virtual void StopPod(const std::string& id, DoneCallback done) = 0;
  // Stops if need be, and removes the pod with its containers. Idempotent; unknown: OK.
  virtual void RemovePod(const std::string& id, DoneCallback done) = 0;

  // Returns the new container's id. NotFound (pod, image), FailedPrecondition (pod not ready),
  // AlreadyExists (name key), or what the plan's failing operation says.
  virtual absl::StatusOr<std::string> CreateContainer(ContainerSpec spec) = 0;
  // From kCreated only (FailedPrecondition). A payload that cannot be executed leaves the container
  // kExited with reason StartError and exit code 128.
  virtual absl::Status StartContainer(const std::string& id) = 0;
  // Stop signal, then SIGKILL after `timeout`. A second call with a shorter timeout wins.
  // Idempotent; unknown: OK.
  virtual void StopContainer(const std::string& id, absl::Duration timeout, DoneCallback done) = 0;
  virtual void RemoveContainer(const std::string& id, DoneCallback done) = 0;
  virtual absl::Status ReopenLog(const std::string& id) = 0;

  // Runs a command to its end. DeadlineExceeded after its timeout, with every process of it killed.
  virtual void ExecSync(ExecSpec spec, std::function<void(absl::StatusOr<ExecResult>)> done) = 0;

  // Writes new limits to the container's cgroups (all or none) and stores `metadata` with it.
  virtual absl::Status UpdateResources(const std::string& id,
                                       const runtime::spec::LinuxResources& resources,
                                       MetadataPtr metadata) = 0;

  // Full id, or a unique prefix of one. NotFound; InvalidArgument for an ambiguous prefix.
  virtual absl::StatusOr<std::shared_ptr<const PodView>> FindPod(absl::string_view id) const = 0;
  virtual absl::StatusOr<std::shared_ptr<const ContainerView>> FindContainer(
      absl::string_view id) const = 0;
  virtual std::vector<std::shared_ptr<const PodView>> ListPods() const = 0;
  virtual std::vector<std::shared_ptr<const ContainerView>> ListContainers() const = 0;

  // ManagerOptions::upgrade_supervisors from now on. With true, those that run another program are
  // upgraded in the background.
  virtual void SetUpgradeSupervisors(bool upgrade) = 0;

  virtual NetworkStatus Network() const = 0;
  virtual std::string CniConfigJson() const = 0;  // for `crictl info`

  // Forgets nothing, stops nothing: closes connections and joins threads. Pods go on.
  virtual void Shutdown() = 0;
};

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_MANAGER_H_
