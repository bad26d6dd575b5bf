#include "sandbox/testing_node.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "runtime/cgroup/group.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "sandbox/notification.h"
#include "sandbox/records.h"

namespace davit::sandbox::testing {
namespace {

namespace fs = std::filesystem;

class CountedPin : public images::LayerPin {
 public:
  CountedPin(std::vector<std::string> dirs, std::shared_ptr<std::atomic<int>> count)
      : dirs_(std::move(dirs)), count_(std::move(count)) {
    ++*count_;
  }
  ~CountedPin() override { --*count_; }
  const std::vector<std::string>& lower_dirs() const override { return dirs_; }

 private:
  const std::vector<std::string> dirs_;
  const std::shared_ptr<std::atomic<int>> count_;
};

void MakeRootfs(const std::string& rootfs) {
  for (const char* dir : {"bin", "dev", "etc", "proc", "sys", "tmp", "root"}) {
    fs::create_directories(absl::StrCat(rootfs, "/", dir));
  }
  fs::copy_file("/bin/busybox", rootfs + "/bin/busybox");
  for (const char* name : {"sh", "sleep", "true", "false", "cat", "echo", "hostname", "id", "kill",
                           "seq", "ps", "touch", "test", "env", "mkdir", "grep"}) {
    fs::create_symlink("busybox", absl::StrCat(rootfs, "/bin/", name));
  }
}

// The done callback of a call and the wait for it.
struct Waiter {
  Notification done;
  absl::Status status;
};

absl::Status WaitFor(const std::function<void(DoneCallback)>& call) {
  auto waiter = std::make_shared<Waiter>();
  call([waiter](absl::Status status) {
    waiter->status = std::move(status);
    waiter->done.Notify();
  });
  waiter->done.WaitForNotification();
  return waiter->status;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

int CountBelow(const std::string& directory, bool directories_only = false) {
  int count = 0;
  std::error_code error;
  for (auto it = fs::recursive_directory_iterator(directory, error);
       it != fs::recursive_directory_iterator(); it.increment(error)) {
    if (error) break;
    if (directories_only && !it->is_directory(error)) continue;
    ++count;
  }
  return count;
}

int CountLines(const std::string& text, const std::string& with) {
  int count = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) count += absl::StrContains(line, with);
  return count;
}

}  // namespace

std::unique_ptr<images::PullTicket> FakeImages::Pull(images::PullRequest, PullCallback callback) {
  callback(absl::UnimplementedError("no pulls here"));
  return nullptr;
}

absl::StatusOr<std::unique_ptr<images::LayerPin>> FakeImages::PinLayers(absl::string_view id) {
  if (id != "busybox") return absl::NotFoundError(absl::StrCat("image \"", id, "\" is not here"));
  return std::make_unique<CountedPin>(std::vector<std::string>{rootfs_}, pins_);
}

absl::StatusOr<std::unique_ptr<images::LayerPin>> FakeImages::RepinLayers(
    const std::vector<std::string>& lower_dirs) {
  return std::make_unique<CountedPin>(lower_dirs, pins_);
}

Node::Node(std::string davit_pod, std::string davit_init) {
  const char* base = getenv("TEST_TMPDIR");
  std::string name = absl::StrCat(base != nullptr ? base : "/tmp", "/node.XXXXXX");
  // Socket paths are short (man 7 unix): Bazel's directories are not.
  if (name.size() > 30) name = "/tmp/davit-node.XXXXXX";
  if (mkdtemp(name.data()) == nullptr) abort();
  root_ = name;
  chmod(root_.c_str(), 0755);
  MakeRootfs(root_ + "/rootfs");
  images_ = std::make_unique<FakeImages>(root_ + "/rootfs");
  options_.root = root_ + "/lib";
  options_.state = root_ + "/run";
  options_.supervisor = std::move(davit_pod);
  options_.init = std::move(davit_init);
  options_.cgroup_parent = absl::StrCat("/davit-test-", getpid());
  options_.netns_dir = root_ + "/netns";
  options_.cni_conf_dir = root_ + "/net.d";
  options_.cni_bin_dirs = {root_ + "/cni-bin", "/usr/lib/cni"};
  options_.cni_timeout = absl::Seconds(20);
  options_.report = [this](Severity, const std::string& message) {
    sys::MutexLock lock(&mutex_);
    reports_.push_back(message);
  };
  fs::create_directories(options_.cni_conf_dir);
  fs::create_directories(options_.netns_dir);
  fs::create_directories(root_ + "/cni-bin");
  fs::create_directories(root_ + "/logs");
}

Node::~Node() {
  if (manager_ != nullptr) {
    for (const auto& pod : manager_->ListPods()) RemovePod(pod->id).IgnoreError();
  }
  manager_.reset();
  RemoveGroups();
  sys::RemoveTreeAt(AT_FDCWD, root_).IgnoreError();
}

void Node::RemoveGroups() {
  auto layout = runtime::cgroup::DetectLayout();
  if (!layout.ok()) return;
  auto groups =
      runtime::cgroup::Groups::Create(runtime::cgroup::Driver::kCgroupfs, *std::move(layout));
  if (!groups.ok()) return;
  const absl::Time deadline = absl::Now() + absl::Seconds(5);
  (*groups)->KillAll(options_.cgroup_parent, deadline).IgnoreError();
  (*groups)->Remove(options_.cgroup_parent, deadline).IgnoreError();
}

absl::Status Node::Restart() {
  manager_.reset();
  MetadataCodec codec;
  codec.parse_pod =
      codec.parse_container = [](absl::string_view text) -> absl::StatusOr<MetadataPtr> {
    return std::make_shared<TextMetadata>(std::string(text));
  };
  auto manager = Manager::Open(options_, codec, images_.get());
  if (!manager.ok()) return manager.status();
  manager_ = *std::move(manager);
  return absl::OkStatus();
}

absl::Status Node::StopPod(const std::string& id) {
  return WaitFor([&](DoneCallback done) { manager_->StopPod(id, std::move(done)); });
}
absl::Status Node::RemovePod(const std::string& id) {
  return WaitFor([&](DoneCallback done) { manager_->RemovePod(id, std::move(done)); });
}
absl::Status Node::StopContainer(const std::string& id, absl::Duration timeout) {
  return WaitFor([&](DoneCallback done) { manager_->StopContainer(id, timeout, std::move(done)); });
}
absl::Status Node::RemoveContainer(const std::string& id) {
  return WaitFor([&](DoneCallback done) { manager_->RemoveContainer(id, std::move(done)); });
}

absl::StatusOr<ExecResult> Node::Exec(const std::string& container,
                                      std::vector<std::string> command, absl::Duration timeout,
                                      size_t limit) {
  ExecSpec spec;
  spec.container_id = container;
  spec.command = std::move(command);
  spec.timeout = timeout;
  spec.output_limit = limit;
  struct Slot {
    Notification done;
    absl::StatusOr<ExecResult> result = absl::UnknownError("no answer");
  };
  auto slot = std::make_shared<Slot>();
  manager_->ExecSync(std::move(spec), [slot](absl::StatusOr<ExecResult> result) {
    slot->result = std::move(result);
    slot->done.Notify();
  });
  slot->done.WaitForNotification();
  return slot->result;
}

PodSpec Node::HostPod(const std::string& name) const {
  PodSpec spec;
  spec.name = name;
  spec.name_space = "test";
  spec.uid = "uid-" + name;
  spec.name_key = absl::StrCat(name, "_test_uid-", name, "_0");
  spec.network = NamespaceMode::kNode;
  spec.pid = NamespaceMode::kContainer;
  spec.metadata = std::make_shared<TextMetadata>("pod " + name);
  return spec;
}

PodSpec Node::NetworkPod(const std::string& name) const {
  PodSpec spec = HostPod(name);
  spec.network = NamespaceMode::kPod;
  spec.hostname = name;
  return spec;
}

ContainerSpec Node::Container(const std::string& pod, const std::string& name,
                              std::vector<std::string> command) const {
  ContainerSpec spec;
  spec.pod_id = pod;
  spec.name_key = absl::StrCat(name, "_", pod, "_0");
  spec.image_id = "busybox";
  spec.pid = NamespaceMode::kContainer;
  spec.log_path = absl::StrCat(root_, "/logs/", name, ".log");
  spec.metadata = std::make_shared<TextMetadata>("container " + name);
  runtime::spec::Spec& oci = spec.spec;
  oci.process.emplace();
  oci.process->args = std::move(command);
  oci.process->env = {"PATH=/bin", "HOME=/root", "GREETING=hello"};
  runtime::spec::Capabilities capabilities;
  capabilities.bounding = capabilities.effective = capabilities.permitted = {
      "CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"};
  oci.process->capabilities = capabilities;
  oci.process->no_new_privileges = true;
  oci.mounts = {
      {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
      {"/dev/pts",
       "devpts",
       "devpts",
       {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
      {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
      {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}},
      {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}},
  };
  oci.linux_.namespaces = {{runtime::spec::NamespaceType::kMount, ""},
                           {runtime::spec::NamespaceType::kCgroup, ""}};
  oci.linux_.resources.emplace();
  oci.linux_.resources->devices = {{false, "", std::nullopt, std::nullopt, "rwm"}};
  oci.linux_.masked_paths = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"};
  oci.linux_.readonly_paths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                               "/proc/sysrq-trigger"};
  return spec;
}

absl::StatusOr<std::string> Node::Run(ContainerSpec spec) {
  DAVIT_ASSIGN_OR_RETURN(const std::string id, manager_->CreateContainer(std::move(spec)));
  DAVIT_RETURN_IF_ERROR(manager_->StartContainer(id));
  return id;
}

bool Node::Await(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (!condition()) {
    if (absl::Now() > deadline) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

std::shared_ptr<const ContainerView> Node::AwaitExit(const std::string& id) {
  std::shared_ptr<const ContainerView> view;
  Await([&] {
    auto found = manager_->FindContainer(id);
    if (!found.ok()) return false;
    view = *found;
    return view->state == ContainerState::kExited;
  });
  return view;
}

void Node::InstallPlugin(const std::string& script) {
  const std::string path = root_ + "/cni-bin/fake";
  {
    std::ofstream file(path);
    file << "#!/bin/sh\necho \"$CNI_COMMAND $CNI_CONTAINERID\" >> " << root_
         << "/cni.log\ncat > /dev/null\n"
         << script;
  }
  chmod(path.c_str(), 0755);
  std::ofstream conf(options_.cni_conf_dir + "/10-fake.conflist");
  conf << R"({"cniVersion": "1.0.0", "name": "fakenet", "plugins": [{"type": "fake"}]})";
}

std::string Node::PluginLog() const { return ReadAll(root_ + "/cni.log"); }

std::map<std::string, int> Node::Census() const {
  std::map<std::string, int> census;
  census["mounts"] = CountLines(ReadAll("/proc/self/mountinfo"), root_);
  auto layout = runtime::cgroup::DetectLayout();
  const std::string own_group = options_.cgroup_parent;
  // The configured parent itself stays, and every group is full of files.
  for (const auto& hierarchy : layout->hierarchies) {
    census["cgroups"] += CountBelow(hierarchy.mount_point + own_group, true);
  }
  census["netns"] = CountBelow(options_.netns_dir);
  census["state"] = CountBelow(options_.state + "/pods");
  census["layers"] = CountBelow(options_.root + "/containers");
  census["attachments"] = CountBelow(options_.root + "/cni");
  census["descriptors"] = CountBelow("/proc/self/fd");
  // Supervisors are known by their pod's id on the command line, containers by their cgroup.
  for (const auto& entry : fs::directory_iterator("/proc")) {
    int pid;
    if (!absl::SimpleAtoi(entry.path().filename().string(), &pid)) continue;
    const std::string process = entry.path().string();
    const std::string command = ReadAll(process + "/cmdline");
    const std::string status = ReadAll(process + "/status");
    if (absl::StrContains(ReadAll(process + "/cgroup"), own_group) ||
        (absl::StrContains(status, absl::StrCat("PPid:\t", getpid(), "\n")) && !command.empty())) {
      ++census["processes"];
    }
  }
  return census;
}

std::map<std::string, int> Node::More(const std::map<std::string, int>& before) const {
  std::map<std::string, int> more;
  for (const auto& [what, count] : Census()) {
    const auto it = before.find(what);
    const int old = it == before.end() ? 0 : it->second;
    if (count > old) more[what] = count - old;
  }
  return more;
}

std::vector<std::string> Node::reports() const {
  sys::MutexLock lock(&mutex_);
  return reports_;
}

}  // namespace davit::sandbox::testing
