#include "runtime/testing/bundle.h"

#include <dirent.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/cgroup_directories.h"
#include "runtime/sys/capability.h"
#include "runtime/sys/features.h"

namespace davit::runtime::testing {
namespace {

using spec::NamespaceType;

const sys::KernelFeatures& Features() {
  static const sys::KernelFeatures* const features = new sys::KernelFeatures(sys::ProbeKernel());
  return *features;
}

std::vector<std::string> Lines(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

// Gives this process its own mounts, once, and returns the lines of mountinfo that it began with.
// What others mount later does not get here, but what they had may vanish, with the directories it
// is on.
const std::set<std::string>& InheritedMounts() {
  static const std::set<std::string>* const inherited = [] {
    EXPECT_EQ(unshare(CLONE_NEWNS), 0);
    EXPECT_EQ(mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
    const std::vector<std::string> lines = Lines("/proc/self/mountinfo");
    return new std::set<std::string>(lines.begin(), lines.end());
  }();
  return *inherited;
}

}  // namespace

Sections ParseSections(const std::string& output) {
  Sections sections;
  std::string current;
  for (const absl::string_view line : absl::StrSplit(output, '\n')) {
    if (absl::StartsWith(line, "## ")) {
      current = std::string(line.substr(3));
      sections[current];
      continue;
    }
    std::string& text = sections[current];
    if (line.empty()) continue;
    absl::StrAppend(&text, text.empty() ? "" : "\n", line);
  }
  return sections;
}

std::string Line(const std::string& text, absl::string_view prefix) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::StartsWith(line, prefix)) return std::string(line);
  }
  return "";
}

std::string MountLine(const std::string& mountinfo, absl::string_view point) {
  std::string found;
  for (const absl::string_view line : absl::StrSplit(mountinfo, '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() > 5 && fields[4] == point) found = std::string(line);
  }
  return found;
}

std::string Residue::ToString() const {
  return absl::StrCat("mounts:\n", absl::StrJoin(mounts, "\n"), "\ncgroups:\n",
                      absl::StrJoin(cgroups, "\n"), "\nchildren: ", absl::StrJoin(children, " "),
                      "\nfds: ", absl::StrJoin(fds, " "), "\n");
}

Bundle::Bundle() {
  InheritedMounts();
  static int count = 0;
  char name[] = "/tmp/davit-bundle-XXXXXX";
  dir_ = mkdtemp(name);
  chmod(dir_.c_str(), 0755);
  for (const char* sub : {"", "/bin", "/dev", "/etc", "/proc", "/sys", "/tmp", "/data"}) {
    std::filesystem::create_directory(rootfs() + sub);
  }
  chmod((rootfs() + "/tmp").c_str(), 01777);
  std::filesystem::copy_file("runtime/testing/probe", rootfs() + "/bin/probe");
  chmod((rootfs() + "/bin/probe").c_str(), 0755);
  group_ = absl::StrCat("/davit-test-", getpid(), "-", count++);
  absl::StatusOr<cgroup::Layout> layout = cgroup::DetectLayout();
  EXPECT_TRUE(layout.ok()) << layout.status();
  auto groups = cgroup::Groups::Create(cgroup::Driver::kCgroupfs, *layout);
  EXPECT_TRUE(groups.ok()) << groups.status();
  groups_ = std::move(*groups);
  EXPECT_TRUE(groups_->MakeParent(group_).ok());
}

Bundle::~Bundle() {
  const absl::Status removed = groups_->Remove(group_, absl::Now() + absl::Seconds(10));
  EXPECT_TRUE(removed.ok()) << removed;
  std::error_code error;
  std::filesystem::remove_all(dir_, error);
  EXPECT_FALSE(error) << error.message();
}

spec::Spec Bundle::DefaultSpec() const {
  spec::Spec spec;
  spec::Process process;
  process.args = {"/bin/probe"};
  process.env = {"PATH=/usr/bin:/bin", "TERM=xterm"};
  process.no_new_privileges = true;
  const std::vector<std::string> capabilities = {
      "CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
      "CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
      "CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
      "CAP_KILL",    "CAP_AUDIT_WRITE"};
  process.capabilities = spec::Capabilities{.bounding = capabilities,
                                            .effective = capabilities,
                                            .inheritable = {},
                                            .permitted = capabilities,
                                            .ambient = {}};
  spec.process = process;
  spec.root.path = "rootfs";
  spec.hostname = "davit-test";
  for (const NamespaceType type :
       {NamespaceType::kPid, NamespaceType::kMount, NamespaceType::kIpc, NamespaceType::kUts,
        NamespaceType::kNetwork, NamespaceType::kCgroup}) {
    spec.linux_.namespaces.push_back({type, ""});
  }
  spec.mounts = {
      {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
      {"/dev/pts",
       "devpts",
       "devpts",
       {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}},
      {"/dev/shm", "tmpfs", "shm", {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
      {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", "ro"}},
      {"/sys/fs/cgroup", "cgroup", "cgroup", {"nosuid", "noexec", "nodev", "relatime", "ro"}},
  };
  spec.linux_.masked_paths = {"/proc/acpi",       "/proc/kcore",         "/proc/keys",
                              "/proc/timer_list", "/proc/latency_stats", "/proc/sched_debug",
                              "/proc/scsi",       "/sys/firmware",       "/proc/missing"};
  spec.linux_.readonly_paths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                "/proc/sysrq-trigger"};
  spec.linux_.resources.emplace();
  spec.linux_.resources->devices = {{.allow = false, .access = "rwm"}};
  return spec;
}

std::string Bundle::CgroupInside(absl::string_view controller) const {
  return absl::StrCat("/sys/fs/cgroup", layout().IsPureV2() ? "" : "/",
                      layout().IsPureV2() ? "" : controller);
}

std::vector<std::string> Bundle::Probe(const std::vector<std::vector<std::string>>& commands) {
  std::vector<std::string> args = {"/bin/probe"};
  for (const std::vector<std::string>& command : commands) {
    if (args.size() > 1) args.push_back("--");
    args.insert(args.end(), command.begin(), command.end());
  }
  return args;
}

Container::Options Bundle::Options(const spec::Spec& spec) {
  const std::string id = absl::StrCat("c", next_++);
  Container::Options options;
  options.spec = spec;
  plan::CreateInputs& inputs = options.inputs;
  inputs.container_id = id;
  inputs.features = Features();
  inputs.bundle_dir = dir_;
  std::filesystem::create_directory(absl::StrCat(dir_, "/", id));
  inputs.overlay = plan::OverlayRootfs{.lower_dirs = {rootfs()},
                                       .upper_dir = absl::StrCat(dir_, "/", id, "/upper"),
                                       .work_dir = absl::StrCat(dir_, "/", id, "/work")};
  inputs.capability_ceiling = sys::PermittedCapabilities().value_or(0);
  rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  if ((inputs.capability_ceiling & sys::CapabilityBit(24 /* CAP_SYS_RESOURCE */)) == 0) {
    inputs.oom_score_adj_floor = atoi(Lines("/proc/self/oom_score_adj")[0].c_str());
    inputs.rlimit_ceiling = {{"RLIMIT_NOFILE", files.rlim_max, files.rlim_max}};
  }
  auto cgroups = CgroupDirectories(layout(), absl::StrCat(group_, "/", id),
                                   spec.linux_.resources.value_or(spec::LinuxResources()));
  EXPECT_TRUE(cgroups.ok()) << cgroups.status();
  inputs.cgroups = *std::move(cgroups);
  return options;
}

std::string Bundle::Run(const Container::Options& options) {
  Pipe out;
  Container::Options with_pipe = options;
  with_pipe.external[plan::kStdout] = out.write_end.get();
  with_pipe.external[plan::kStderr] = out.write_end.get();
  auto container = Container::Create(with_pipe);
  EXPECT_TRUE(container.ok()) << container.status();
  if (!container.ok()) return "";
  out.write_end.reset();
  const absl::Status started = (*container)->Start();
  EXPECT_TRUE(started.ok()) << started;
  const std::string text = out.ReadAll();
  auto status = (*container)->Wait(absl::Now() + absl::Seconds(20));
  EXPECT_TRUE(status.ok()) << status.status();
  const absl::Status deleted = (*container)->Delete(false);
  EXPECT_TRUE(deleted.ok()) << deleted;
  return text;
}

Sections Bundle::RunProbe(spec::Spec spec, const std::vector<std::vector<std::string>>& commands) {
  spec.process->args = Probe(commands);
  return ParseSections(Run(spec));
}

Residue Bundle::Count() const {
  Residue residue;
  for (std::string& line : Lines("/proc/self/mountinfo")) {
    if (InheritedMounts().count(line) == 0) residue.mounts.push_back(std::move(line));
  }
  for (const cgroup::Hierarchy& hierarchy : layout().hierarchies) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(
             hierarchy.mount_point + group_,
             std::filesystem::directory_options::skip_permission_denied)) {
      if (entry.is_directory()) residue.cgroups.push_back(entry.path());
    }
  }
  std::sort(residue.cgroups.begin(), residue.cgroups.end());
  residue.children = Lines(absl::StrCat("/proc/self/task/", getpid(), "/children"));
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    residue.fds.push_back(entry.path().filename());
  }
  std::sort(residue.fds.begin(), residue.fds.end());
  return residue;
}

Pipe::Pipe() {
  int fds[2];
  EXPECT_EQ(pipe2(fds, O_CLOEXEC), 0);
  read_end.reset(fds[0]);
  write_end.reset(fds[1]);
}

std::string Pipe::ReadAll() {
  write_end.reset();
  std::string text;
  char buffer[4096];
  ssize_t count;
  while ((count = read(read_end.get(), buffer, sizeof(buffer))) > 0) {
    text.append(buffer, static_cast<size_t>(count));
  }
  return text;
}

void StartWaiting(const Container::Options& options, Running* running,
                  std::vector<std::vector<std::string>> commands) {
  commands.push_back({"wait"});
  Container::Options with_pipes = options;
  with_pipes.spec.process->args = Bundle::Probe(commands);
  with_pipes.external[plan::kStdin] = running->in.read_end.get();
  with_pipes.external[plan::kStdout] = running->out.write_end.get();
  auto container = Container::Create(with_pipes);
  ASSERT_TRUE(container.ok()) << container.status();
  running->container = *std::move(container);
  running->in.read_end.reset();
  running->out.write_end.reset();
  ASSERT_TRUE(running->container->Start().ok());
}

}  // namespace davit::runtime::testing
