#include "runtime/container.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/stage/namespaces.h"
#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using spec::NamespaceType;
using testing::Bundle;
using testing::ParseSections;
using testing::Pipe;
using testing::Residue;
using testing::Sections;

std::string Line(const std::string& text, absl::string_view prefix) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::StartsWith(line, prefix)) return std::string(line);
  }
  return "";
}

// The line of mountinfo for a mount point; the last one covers the others.
std::string MountLine(const std::string& mountinfo, absl::string_view point) {
  std::string found;
  for (const absl::string_view line : absl::StrSplit(mountinfo, '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() > 5 && fields[4] == point) found = std::string(line);
  }
  return found;
}

// A created and started container whose payload waits for the end of its standard input.
struct Running {
  std::unique_ptr<Container> container;
  Pipe in;
  Pipe out;
};
void StartWaiting(const Container::Options& options, Running* running,
                  std::vector<std::vector<std::string>> commands = {}) {
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

TEST(ContainerTest, RunsThePayloadInItsOwnNamespaces) {
  Bundle bundle;
  const Sections out = bundle.RunProbe(bundle.DefaultSpec(), {{"pid"},
                                                              {"names"},
                                                              {"fds"},
                                                              {"signals"},
                                                              {"cat", "/proc/self/cgroup"},
                                                              {"cat", "/proc/net/dev"},
                                                              {"ls", "/sys/class/net"}});
  EXPECT_EQ(out.at("pid"), "1 0 1");
  EXPECT_EQ(out.at("names"), "davit-test (none)");
  EXPECT_EQ(out.at("fds"), "0 1 2 ");
  EXPECT_EQ(out.at("signals"), "[]");
  EXPECT_EQ(out.at("ls /sys/class/net"), "lo");
  for (const absl::string_view line : absl::StrSplit(out.at("cat /proc/self/cgroup"), '\n')) {
    EXPECT_TRUE(absl::EndsWith(line, ":/")) << line;
  }
}

TEST(ContainerTest, IgnoredAndBlockedSignalsOfTheCreatorDoNotReachThePayload) {
  Bundle bundle;
  signal(SIGPIPE, SIG_IGN);
  sigset_t blocked;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  const Sections out = bundle.RunProbe(bundle.DefaultSpec(), {{"signals"}});
  sigprocmask(SIG_UNBLOCK, &blocked, nullptr);
  signal(SIGPIPE, SIG_DFL);
  EXPECT_EQ(out.at("signals"), "[]");
}

TEST(ContainerTest, MountsHaveTheirTypesAndFlags) {
  Bundle bundle;
  const Sections out = bundle.RunProbe(bundle.DefaultSpec(), {{"cat", "/proc/self/mountinfo"},
                                                              {"stat", "/dev/shm"},
                                                              {"stat", "/proc"},
                                                              {"write", "/sys/x", ""},
                                                              {"mkdir", "/sys/fs/cgroup/memory/x"},
                                                              {"write", "/file", "x"}});
  const std::string& mounts = out.at("cat /proc/self/mountinfo");
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/"), " - overlay overlay rw,")) << mounts;
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/"), "volatile"));
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/proc"),
                                "rw,nosuid,nodev,noexec,relatime - proc proc rw"));
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/dev"), " rw,nosuid - tmpfs tmpfs"));
  EXPECT_TRUE(
      absl::StrContains(MountLine(mounts, "/dev/pts"), "- devpts devpts rw,gid=5,mode=620"));
  EXPECT_TRUE(
      absl::StrContains(MountLine(mounts, "/dev/mqueue"), "nodev,noexec,relatime - mqueue"));
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/dev/shm"), "- tmpfs shm rw,size=65536k"));
  EXPECT_TRUE(
      absl::StrContains(MountLine(mounts, "/sys"), " ro,nosuid,nodev,noexec,relatime - sysfs"));
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/sys/fs/cgroup"), " ro,"));
  EXPECT_EQ(out.at("stat /dev/shm").substr(0, 8), "dir 1777");
  EXPECT_EQ(out.at("stat /proc").substr(0, 7), "dir 555");
  EXPECT_EQ(out.at("write /sys/x "), "EROFS");
  EXPECT_EQ(out.at("mkdir /sys/fs/cgroup/memory/x"), "EROFS");
  EXPECT_EQ(out.at("write /file x"), "ok");
  for (const absl::string_view line : absl::StrSplit(mounts, '\n')) {
    EXPECT_FALSE(absl::StrContains(line, "shared:")) << line;
    EXPECT_FALSE(absl::StrContains(line, "master:")) << line;
  }
}

TEST(ContainerTest, DevHoldsTheDefaultNodesAndLinks) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.devices = {{"/dev/sub/fuse", "c", 10, 229, 0640, 5, 6}, {"/fifo", "p"}};
  const Sections out = bundle.RunProbe(spec, {{"stat", "/dev/null"},
                                              {"stat", "/dev/urandom"},
                                              {"stat", "/dev/tty"},
                                              {"stat", "/dev/sub/fuse"},
                                              {"stat", "/fifo"},
                                              {"readlink", "/dev/ptmx"},
                                              {"readlink", "/dev/stdout"},
                                              {"open", "/dev/zero"},
                                              {"open", "/dev/sub/fuse"},
                                              {"stat", "/dev/console"}});
  EXPECT_EQ(out.at("stat /dev/null"), "char 666 1:3 uid=0 gid=0 size=0");
  EXPECT_EQ(out.at("stat /dev/urandom"), "char 666 1:9 uid=0 gid=0 size=0");
  EXPECT_EQ(out.at("stat /dev/tty"), "char 666 5:0 uid=0 gid=0 size=0");
  EXPECT_EQ(out.at("stat /dev/sub/fuse"), "char 640 10:229 uid=5 gid=6 size=0");
  EXPECT_EQ(out.at("stat /fifo"), "fifo 666 0:0 uid=0 gid=0 size=0");
  EXPECT_EQ(out.at("readlink /dev/ptmx"), "pts/ptmx");
  EXPECT_EQ(out.at("readlink /dev/stdout"), "/proc/self/fd/1");
  EXPECT_EQ(out.at("open /dev/zero"), "ok");
  EXPECT_EQ(out.at("open /dev/sub/fuse"), "EPERM");  // no device rule allows it
  EXPECT_EQ(out.at("stat /dev/console"), "ENOENT");  // no terminal
}

TEST(ContainerTest, MaskedAndReadOnlyPathsAre) {
  Bundle bundle;
  std::ofstream(bundle.rootfs() + "/etc/secret") << "secret";
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.masked_paths.push_back("/etc/secret");
  spec.linux_.masked_paths.push_back("/data");
  spec.linux_.readonly_paths.push_back("/tmp");
  const Sections out = bundle.RunProbe(spec, {{"stat", "/proc/keys"},
                                              {"cat", "/etc/secret"},
                                              {"ls", "/data"},
                                              {"mkdir", "/data/x"},
                                              {"ls", "/sys/firmware"},
                                              {"mkdir", "/tmp/x"},
                                              {"write", "/proc/sys/kernel/hostname", "x"}});
  EXPECT_TRUE(absl::StrContains(out.at("stat /proc/keys"), "char 666 1:3"));
  EXPECT_EQ(out.at("cat /etc/secret"), "");
  EXPECT_EQ(out.at("ls /data"), "");
  EXPECT_EQ(out.at("mkdir /data/x"), "EROFS");
  EXPECT_EQ(out.at("ls /sys/firmware"), "");
  EXPECT_EQ(out.at("mkdir /tmp/x"), "EROFS");
  EXPECT_EQ(out.at("write /proc/sys/kernel/hostname x"), "EROFS");
}

TEST(ContainerTest, IdentityLimitsAndConfinementAreWhatTheSpecSays) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->user = {.uid = 1000, .gid = 1001, .umask = 027, .additional_gids = {7, 8}};
  spec.process->cwd = "/work/dir";
  spec.process->env = {"PATH=/bin", "A=1", "A=2", "B=\xff"};
  spec.process->rlimits = {{"RLIMIT_NOFILE", 100, 200}, {"RLIMIT_CORE", 0, 0}};
  spec.process->oom_score_adj = 500;
  spec.process->capabilities->inheritable = {"CAP_CHOWN", "CAP_KILL"};
  spec.process->capabilities->ambient = {"CAP_KILL"};
  spec.linux_.seccomp = spec::Seccomp{.default_action = "SCMP_ACT_ALLOW"};
  spec.linux_.seccomp->syscalls = {
      {.names = {"mkdir"}, .action = "SCMP_ACT_ERRNO", .errno_ret = 18}};
  const Sections out = bundle.RunProbe(spec, {{"ids"},
                                              {"umask"},
                                              {"cwd"},
                                              {"env"},
                                              {"rlimit", std::to_string(RLIMIT_NOFILE)},
                                              {"cat", "/proc/self/status"},
                                              {"cat", "/proc/self/oom_score_adj"},
                                              {"mkdir", "/tmp/x"},
                                              {"write", "/proc/self/fd/1", ""}});
  EXPECT_EQ(out.at("ids"), "1000 1000 1001 1001: 7 8");
  EXPECT_EQ(out.at("umask"), "0027");
  EXPECT_EQ(out.at("cwd"), "/work/dir");
  EXPECT_EQ(out.at("env"), "PATH=/bin\nA=2\nB=\xff");
  EXPECT_EQ(out.at(absl::StrCat("rlimit ", RLIMIT_NOFILE)), "100 200");
  const std::string& status = out.at("cat /proc/self/status");
  EXPECT_EQ(Line(status, "CapAmb"), "CapAmb:\t0000000000000020");
  EXPECT_EQ(Line(status, "CapInh"), "CapInh:\t0000000000000021");
  EXPECT_EQ(Line(status, "CapEff"), "CapEff:\t0000000000000020");
  EXPECT_EQ(Line(status, "CapPrm"), "CapPrm:\t0000000000000020");
  EXPECT_EQ(Line(status, "CapBnd"), "CapBnd:\t00000000a80425fb");
  EXPECT_EQ(Line(status, "NoNewPrivs"), "NoNewPrivs:\t1");
  EXPECT_EQ(Line(status, "Seccomp:"), "Seccomp:\t2");
  EXPECT_EQ(Line(status, "Seccomp_filters"), "Seccomp_filters:\t1");
  EXPECT_EQ(out.at("cat /proc/self/oom_score_adj"), "500");
  EXPECT_EQ(out.at("mkdir /tmp/x"), "EXDEV");
  EXPECT_EQ(out.at("write /proc/self/fd/1 "), "ok");  // its own pipe, opened again
}

TEST(ContainerTest, WithoutNoNewPrivilegesSeccompIsLoadedToo) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->no_new_privileges = false;
  spec.process->user.uid = 1000;
  spec.linux_.seccomp = spec::Seccomp{.default_action = "SCMP_ACT_ALLOW"};
  spec.linux_.seccomp->syscalls = {
      {.names = {"mkdir"}, .action = "SCMP_ACT_ERRNO", .errno_ret = 18}};
  const Sections out = bundle.RunProbe(spec, {{"mkdir", "/tmp/x"}, {"cat", "/proc/self/status"}});
  EXPECT_EQ(out.at("mkdir /tmp/x"), "EXDEV");
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "NoNewPrivs"), "NoNewPrivs:\t0");
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "CapEff"), "CapEff:\t0000000000000000");
}

TEST(ContainerTest, WithoutCapabilitiesEvenRootHasNone) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->capabilities.reset();
  const Sections out = bundle.RunProbe(spec, {{"cat", "/proc/self/status"}, {"mount", "/tmp"}});
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "CapBnd"), "CapBnd:\t0000000000000000");
  EXPECT_EQ(Line(out.at("cat /proc/self/status"), "CapEff"), "CapEff:\t0000000000000000");
  EXPECT_EQ(out.at("mount /tmp"), "EPERM");
}

TEST(ContainerTest, WhatTheRuntimeLacksIsDroppedWithAWarning) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->capabilities->effective.push_back("CAP_SYS_ADMIN");
  spec.process->capabilities->permitted.push_back("CAP_SYS_ADMIN");
  spec.process->capabilities->bounding.push_back("CAP_NO_SUCH");
  spec.process->oom_score_adj = -999;
  Container::Options options = bundle.Options(spec);
  options.spec.process->args = Bundle::Probe({{"exit", "0"}});
  options.inputs.capability_ceiling &= ~(uint64_t{1} << 21);
  options.inputs.oom_score_adj_floor = 0;
  auto container = Container::Create(options);
  ASSERT_TRUE(container.ok()) << container.status();
  ASSERT_EQ((*container)->warnings().size(), 3u);
  EXPECT_TRUE(absl::StrContains((*container)->warnings()[0], "oom_score_adj -999"));
  EXPECT_TRUE(absl::StrContains((*container)->warnings()[1], "CAP_NO_SUCH"));
  EXPECT_TRUE(absl::StrContains((*container)->warnings()[2], "CAP_SYS_ADMIN"));
}

TEST(ContainerTest, SysctlsOfItsOwnNamespacesAreSet) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.domainname = "example";
  spec.linux_.sysctl = {{"net.ipv4.ip_forward", "1"},
                        {"net/ipv4/conf/lo/forwarding", "1"},
                        {"kernel.shmmax", "12345"}};
  const Sections out = bundle.RunProbe(
      spec,
      {{"cat", "/proc/sys/net/ipv4/ip_forward"}, {"cat", "/proc/sys/kernel/shmmax"}, {"names"}});
  EXPECT_EQ(out.at("cat /proc/sys/net/ipv4/ip_forward"), "1");
  EXPECT_EQ(out.at("cat /proc/sys/kernel/shmmax"), "12345");
  EXPECT_EQ(out.at("names"), "davit-test example");
}

TEST(ContainerTest, CgroupsHoldThePayloadAndItsLimits) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.resources->pids_limit = 77;
  spec.linux_.resources->memory.emplace();
  spec.linux_.resources->memory->limit = 64 << 20;
  Running running;
  const Container::Options options = bundle.Options(spec);
  StartWaiting(options, &running);
  ASSERT_NE(running.container, nullptr);
  std::ifstream file(absl::StrCat("/proc/", running.container->pid(), "/cgroup"));
  int lines = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    EXPECT_TRUE(absl::EndsWith(line, bundle.group() + "/c0")) << line;
  }
  EXPECT_EQ(lines, static_cast<int>(bundle.layout().hierarchies.size()));
  const auto read = [&](const char* controller, const char* name) {
    std::ifstream limit(absl::StrCat(
        bundle.layout().Directory(bundle.layout().Find(controller), bundle.group()), "/c0/", name));
    std::string value;
    std::getline(limit, value);
    return value;
  };
  if (!bundle.layout().IsPureV2()) {
    EXPECT_EQ(read("pids", "pids.max"), "77");
    EXPECT_EQ(read("memory", "memory.limit_in_bytes"), std::to_string(64 << 20));
  } else {
    EXPECT_EQ(read("pids", "pids.max"), "77");
    EXPECT_EQ(read("memory", "memory.max"), std::to_string(64 << 20));
  }
}

TEST(ContainerTest, BindMountsKeepTheirOptionsAndMissingSourcesAreMade) {
  Bundle bundle;
  std::filesystem::create_directory(bundle.dir() + "/source");
  std::ofstream(bundle.dir() + "/source/file") << "content";
  std::ofstream(bundle.dir() + "/one") << "alone";
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/mnt/a/b", "bind", bundle.dir() + "/source", {"rbind", "ro", "noexec"}});
  spec.mounts.push_back({"/etc/one", "bind", bundle.dir() + "/one", {"bind"}});
  spec.mounts.push_back({"/made", "bind", bundle.dir() + "/made/deep", {"rbind"}});
  spec.mounts.push_back({"/etc/one", "bind", bundle.dir() + "/one", {"bind", "ro"}});
  const Sections out = bundle.RunProbe(spec, {{"cat", "/mnt/a/b/file"},
                                              {"write", "/mnt/a/b/x", ""},
                                              {"cat", "/etc/one"},
                                              {"write", "/etc/one", ""},
                                              {"write", "/made/x", "y"},
                                              {"cat", "/proc/self/mountinfo"}});
  EXPECT_EQ(out.at("cat /mnt/a/b/file"), "content");
  EXPECT_EQ(out.at("write /mnt/a/b/x "), "EROFS");
  EXPECT_EQ(out.at("cat /etc/one"), "alone");
  EXPECT_EQ(out.at("write /etc/one "), "EROFS");
  EXPECT_EQ(out.at("write /made/x y"), "ok");
  EXPECT_TRUE(
      absl::StrContains(MountLine(out.at("cat /proc/self/mountinfo"), "/mnt/a/b"), " ro,noexec"));
  struct stat st;
  ASSERT_EQ(stat((bundle.dir() + "/made/deep").c_str(), &st), 0);
  EXPECT_EQ(st.st_mode & 07777, 0755u);
}

TEST(ContainerTest, MissingBindSourcesAreAnErrorWhereThatIsWanted) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/x", "bind", bundle.dir() + "/missing", {"rbind"}});
  Container::Options options = bundle.Options(spec);
  options.inputs.create_missing_bind_sources = false;
  const Residue before = bundle.Count();
  auto container = Container::Create(options);
  EXPECT_EQ(container.status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(container.status().message(),
                                absl::StrCat("open bind source \"", bundle.dir(), "/missing\"")));
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

// A tmpfs with another one inside, shared as hosts have their mounts.
class SharedTree {
 public:
  explicit SharedTree(const std::string& path) : path_(path) {
    std::filesystem::create_directory(path_);
    EXPECT_EQ(mount("t", path_.c_str(), "tmpfs", 0, nullptr), 0);
    EXPECT_EQ(mount(nullptr, path_.c_str(), nullptr, MS_SHARED, nullptr), 0);
    std::filesystem::create_directory(path_ + "/sub");
    std::filesystem::create_directory(path_ + "/late");
    EXPECT_EQ(mount("t", (path_ + "/sub").c_str(), "tmpfs", 0, nullptr), 0);
  }
  ~SharedTree() {
    umount2((path_ + "/late").c_str(), MNT_DETACH);
    umount2(path_.c_str(), MNT_DETACH);
  }

 private:
  const std::string path_;
};

TEST(ContainerTest, RecursiveReadOnlyCoversSubmountsAndPlainReadOnlyDoesNot) {
  Bundle bundle;
  const SharedTree tree(bundle.dir() + "/tree");
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/all", "bind", bundle.dir() + "/tree", {"rbind", "rro"}});
  spec.mounts.push_back({"/top", "bind", bundle.dir() + "/tree", {"rbind", "ro"}});
  spec.mounts.push_back({"/flat", "bind", bundle.dir() + "/tree", {"bind"}});
  const Sections out = bundle.RunProbe(spec, {{"mkdir", "/all/x"},
                                              {"mkdir", "/all/sub/x"},
                                              {"mkdir", "/top/x"},
                                              {"mkdir", "/top/sub/x"},
                                              {"ls", "/flat/sub"}});
  EXPECT_EQ(out.at("mkdir /all/x"), "EROFS");
  EXPECT_EQ(out.at("mkdir /all/sub/x"), "EROFS");
  EXPECT_EQ(out.at("mkdir /top/x"), "EROFS");
  EXPECT_EQ(out.at("mkdir /top/sub/x"), "ok");
  EXPECT_EQ(out.at("ls /flat/sub"), "");
}

TEST(ContainerTest, PropagationIsWhatTheMountAsksFor) {
  Bundle bundle;
  const std::string path = bundle.dir() + "/tree";
  const SharedTree tree(path);
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/private", "bind", path, {"rbind", "rprivate"}});
  spec.mounts.push_back({"/slave", "bind", path, {"rbind", "rslave"}});
  spec.mounts.push_back({"/shared", "bind", path, {"rbind", "rshared"}});
  spec.process->capabilities->bounding.push_back("CAP_SYS_ADMIN");
  spec.process->capabilities->permitted.push_back("CAP_SYS_ADMIN");
  spec.process->capabilities->effective.push_back("CAP_SYS_ADMIN");
  Running running;
  StartWaiting(bundle.Options(spec), &running,
               {{"mount", "/shared/sub"}, {"mount", "/private/sub"}, {"mount", "/slave/sub"}});
  ASSERT_NE(running.container, nullptr);
  // What the host mounts later arrives where it may.
  ASSERT_EQ(mount("late", (path + "/late").c_str(), "tmpfs", 0, nullptr), 0);
  Pipe out;
  spec::Process process = *spec.process;
  process.args = Bundle::Probe({{"cat", "/proc/self/mountinfo"}});
  stage::ExternalFds fds;
  fds[plan::kStdout] = out.write_end.get();
  auto session = running.container->Exec(process, fds);
  ASSERT_TRUE(session.ok()) << session.status();
  const std::string mounts = ParseSections(out.ReadAll()).at("cat /proc/self/mountinfo");
  EXPECT_EQ(MountLine(mounts, "/private/late"), "");
  EXPECT_NE(MountLine(mounts, "/slave/late"), "");
  EXPECT_NE(MountLine(mounts, "/shared/late"), "");
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/slave"), "master:"));
  EXPECT_FALSE(absl::StrContains(MountLine(mounts, "/slave"), "shared:"));
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/shared"), "shared:"));
  EXPECT_FALSE(absl::StrContains(MountLine(mounts, "/private"), "master:"));
  // What the container mounts reaches the host through the shared one alone.
  int on_host = 0;
  for (const std::string& line : bundle.Count().mounts) {
    if (absl::StrContains(line, path + "/sub ")) ++on_host;
  }
  EXPECT_EQ(on_host, 2);  // the tree's own, and the one made in /shared/sub
}

TEST(ContainerTest, ReadOnlyRootsStayUsableForMounts) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.root.readonly = true;
  spec.mounts.push_back({"/scratch/new", "tmpfs", "tmpfs", {"ro", "size=1m"}});
  spec.mounts.push_back({"/scratch/new/inner", "tmpfs", "tmpfs", {"size=1m", "mode=700"}});
  spec.mounts[1].options.push_back("ro");  // /dev
  const Sections out = bundle.RunProbe(spec, {{"mkdir", "/x"},
                                              {"mkdir", "/scratch/new/x"},
                                              {"mkdir", "/scratch/new/inner/x"},
                                              {"mknod", "/dev/x"},
                                              {"write", "/dev/null", "x"},
                                              {"stat", "/scratch/new/inner"}});
  EXPECT_EQ(out.at("mkdir /x"), "EROFS");
  EXPECT_EQ(out.at("mkdir /scratch/new/x"), "EROFS");
  EXPECT_EQ(out.at("mkdir /scratch/new/inner/x"), "ok");
  EXPECT_EQ(out.at("mknod /dev/x"), "EROFS");
  EXPECT_EQ(out.at("write /dev/null x"), "ok");
  EXPECT_TRUE(absl::StartsWith(out.at("stat /scratch/new/inner"), "dir 700"));
}

TEST(ContainerTest, ATmpfsWithoutAModeLooksLikeWhatItCovers) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/tmp", "tmpfs", "tmpfs", {"nosuid"}});
  const Sections out = bundle.RunProbe(spec, {{"stat", "/tmp"}});
  EXPECT_TRUE(absl::StartsWith(out.at("stat /tmp"), "dir 1777"));
}

TEST(ContainerTest, ATerminalBecomesTheControllingTerminal) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->terminal = true;
  spec.process->console_size = spec::Box{.height = 33, .width = 99};
  spec.process->user.uid = 1000;
  spec.process->args =
      Bundle::Probe({{"terminal"}, {"stat", "/dev/pts/0"}, {"stat", "/dev/console"}});
  auto container = Container::Create(bundle.Options(spec));
  ASSERT_TRUE(container.ok()) << container.status();
  Pipe console;
  console.read_end = (*container)->TakeConsole();
  ASSERT_TRUE(console.read_end.ok());
  ASSERT_TRUE((*container)->Start().ok());
  const std::string text = console.ReadAll();
  EXPECT_TRUE(absl::StrContains(text, "111 /dev/pts/0 rows=33 cols=99 tty=ok")) << text;
  EXPECT_TRUE(absl::StrContains(text, "char 620 136:0 uid=1000 gid=5")) << text;
  ASSERT_TRUE((*container)->Wait(absl::Now() + absl::Seconds(10)).ok());
}

TEST(ContainerTest, StatesFollowTheLifecycle) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"pause"}});
  const Residue before = bundle.Count();
  auto created = Container::Create(bundle.Options(spec));
  ASSERT_TRUE(created.ok()) << created.status();
  Container& container = **created;
  EXPECT_EQ(container.status(), ContainerStatus::kCreated);
  EXPECT_EQ(container.Delete(false).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(container.Start().ok());
  EXPECT_EQ(container.status(), ContainerStatus::kRunning);
  EXPECT_EQ(container.Start().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(container.Delete(false).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(container.Kill(SIGKILL).ok());
  auto status = container.Wait(absl::Now() + absl::Seconds(10));
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(WTERMSIG(*status), SIGKILL);
  EXPECT_EQ(container.status(), ContainerStatus::kStopped);
  EXPECT_EQ(container.Kill(SIGTERM).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(container.Delete(false).ok());
  EXPECT_TRUE(container.Delete(false).ok());
  created->reset();
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, ACreatedContainerEndsWhenItsCreatorLetsGo) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"pause"}});
  const Residue before = bundle.Count();
  { ASSERT_TRUE(Container::Create(bundle.Options(spec)).ok()); }
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, CommandsThatCannotBeExecutedAreNamedWithTheReason) {
  Bundle bundle;
  std::ofstream(bundle.rootfs() + "/etc/text") << "no program";
  std::filesystem::permissions(bundle.rootfs() + "/etc/text", std::filesystem::perms::all);
  std::ofstream(bundle.rootfs() + "/bin/plain") << "x";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"/bin/nope", "exec \"/bin/nope\": No such file or directory (ENOENT)"},
      {"nope", "exec \"nope\": No such file or directory (ENOENT)"},
      {"/etc", "exec \"/etc\": Permission denied (EACCES)"},
      {"plain", "exec \"plain\": Permission denied (EACCES)"},
      {"/etc/text", "exec \"/etc/text\": Exec format error (ENOEXEC)"}};
  for (const auto& [command, message] : cases) {
    spec::Spec spec = bundle.DefaultSpec();
    spec.process->args = {command};
    auto container = Container::Create(bundle.Options(spec));
    ASSERT_TRUE(container.ok()) << container.status();
    const absl::Status status = (*container)->Start();
    EXPECT_EQ(status.message(), message);
    EXPECT_EQ((*container)->status(), ContainerStatus::kStopped);
  }
}

TEST(ContainerTest, CommandsAreFoundThroughThePathOfTheContainer) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->env = {"PATH=/missing:/etc:/bin"};
  spec.process->args = {"probe", "pid"};
  EXPECT_TRUE(absl::StrContains(bundle.Run(spec), "1 0 1"));
}

TEST(ContainerTest, ExecSessionsShareTheContainerAndHaveTheirOwnCgroup) {
  Bundle bundle;
  Running running;
  StartWaiting(bundle.Options(bundle.DefaultSpec()), &running);
  ASSERT_NE(running.container, nullptr);
  const Residue before = bundle.Count();
  for (int i = 0; i < 3; ++i) {
    Pipe out;
    spec::Process process = *bundle.DefaultSpec().process;
    process.user.uid = 12;
    process.args = Bundle::Probe({{"pid"},
                                  {"ids"},
                                  {"names"},
                                  {"fds"},
                                  {"ls", "/proc"},
                                  {"cat", "/proc/self/cgroup"},
                                  {"cat", "/proc/self/status"}});
    stage::ExternalFds fds;
    fds[plan::kStdout] = out.write_end.get();
    auto session = running.container->Exec(process, fds);
    ASSERT_TRUE(session.ok()) << session.status();
    const Sections text = ParseSections(out.ReadAll());
    EXPECT_TRUE(absl::EndsWith(text.at("pid"), absl::StrCat(" 0 ", i + 2))) << text.at("pid");
    EXPECT_EQ(text.at("ids"), "12 12 0 0:");
    EXPECT_EQ(text.at("names"), "davit-test (none)");
    EXPECT_EQ(text.at("fds"), "0 1 2 ");
    EXPECT_EQ(Line(text.at("ls /proc"), "1"), "1");
    EXPECT_EQ(Line(text.at("cat /proc/self/status"), "NoNewPrivs"), "NoNewPrivs:\t1");
    for (const absl::string_view line : absl::StrSplit(text.at("cat /proc/self/cgroup"), '\n')) {
      const std::string own = absl::StrCat(":/exec-", i + 1);
      EXPECT_TRUE(absl::EndsWith(line, absl::StartsWith(line, "0::") ? own : ":/")) << line;
    }
    auto status = (*session)->Wait(absl::Now() + absl::Seconds(10));
    ASSERT_TRUE(status.ok());
    EXPECT_EQ(*status, 0);
  }
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, ExecReportsWhatItCannotExecute) {
  Bundle bundle;
  Running running;
  StartWaiting(bundle.Options(bundle.DefaultSpec()), &running);
  ASSERT_NE(running.container, nullptr);
  const Residue before = bundle.Count();
  spec::Process process = *bundle.DefaultSpec().process;
  process.args = {"/bin/nope"};
  EXPECT_EQ(running.container->Exec(process, {}).status().message(),
            "exec \"/bin/nope\": No such file or directory (ENOENT)");
  process.args = {"/bin/probe"};
  process.cwd = "/missing";
  EXPECT_EQ(running.container->Exec(process, {}).status().message(),
            "change directory \"/missing\": No such file or directory (ENOENT)");
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, ExecSessionsMayHaveATerminal) {
  Bundle bundle;
  Running running;
  StartWaiting(bundle.Options(bundle.DefaultSpec()), &running);
  ASSERT_NE(running.container, nullptr);
  spec::Process process = *bundle.DefaultSpec().process;
  process.terminal = true;
  process.args = Bundle::Probe({{"terminal"}});
  auto session = running.container->Exec(process, {});
  ASSERT_TRUE(session.ok()) << session.status();
  Pipe console;
  console.read_end = (*session)->TakeConsole();
  ASSERT_TRUE(console.read_end.ok());
  EXPECT_TRUE(absl::StrContains(console.ReadAll(), "111 /dev/pts/0 rows=0 cols=0 tty=ok"));
}

TEST(ContainerTest, TheRootfsCloneReadsWhileItRunsAndAfterItsDeath) {
  Bundle bundle;
  Running running;
  StartWaiting(bundle.Options(bundle.DefaultSpec()), &running, {{"write", "/tmp/mark", "hello"}});
  ASSERT_NE(running.container, nullptr);
  std::string text;
  while (!absl::StrContains(text, "ok")) {
    char byte;
    ASSERT_EQ(read(running.out.read_end.get(), &byte, 1), 1);
    text.push_back(byte);
  }
  const int root = running.container->rootfs_clone_fd();
  ASSERT_GE(root, 0);
  sys::UniqueFd mark(openat(root, "tmp/mark", O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(mark.ok());
  ASSERT_TRUE(running.container->Kill(SIGKILL).ok());
  ASSERT_TRUE(running.container->Wait(absl::Now() + absl::Seconds(10)).ok());
  mark.reset(openat(root, "tmp/mark", O_RDONLY | O_CLOEXEC));
  EXPECT_TRUE(mark.ok());
}

TEST(ContainerTest, ABundlesOwnRootfsDirectoryIsBound) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"write", "/data/out", "x"}});
  Container::Options options = bundle.Options(spec);
  options.inputs.overlay.reset();
  bundle.Run(options);
  EXPECT_TRUE(std::filesystem::exists(bundle.rootfs() + "/data/out"));
}

TEST(ContainerTest, TheOverlayForOlderKernelsIsMadeInsideAndItsCloneHandedOver) {
  Bundle bundle;
  std::filesystem::create_directory(bundle.dir() + "/layer2");
  std::ofstream(bundle.dir() + "/layer2/top") << "from the top";
  spec::Spec spec = bundle.DefaultSpec();
  Container::Options options = bundle.Options(spec);
  options.inputs.features.overlay_lowerdir_append = false;
  options.inputs.features.clone_detached_mount = false;
  options.inputs.overlay->lower_dirs.insert(options.inputs.overlay->lower_dirs.begin(),
                                            bundle.dir() + "/layer2");
  Running running;
  StartWaiting(options, &running, {{"cat", "/top"}, {"write", "/tmp/x", "y"}});
  ASSERT_NE(running.container, nullptr);
  EXPECT_GE(running.container->rootfs_clone_fd(), 0);
  EXPECT_EQ(faccessat(running.container->rootfs_clone_fd(), "top", R_OK, 0), 0);
  running.in.write_end.reset();
  const Sections out = ParseSections(running.out.ReadAll());
  EXPECT_EQ(out.at("cat /top"), "from the top");
  EXPECT_EQ(out.at("write /tmp/x y"), "ok");
}

TEST(ContainerTest, APodsNamespacesAreJoined) {
  Bundle bundle;
  auto pod = stage::CreatePodNamespaces({});
  ASSERT_TRUE(pod.ok()) << pod.status();
  spec::Spec spec = bundle.DefaultSpec();
  const auto run = [&](const std::vector<std::vector<std::string>>& commands) {
    spec.process->args = Bundle::Probe(commands);
    Container::Options options = bundle.Options(spec);
    options.inputs.join_pod_mount_namespace = true;
    options.inputs.pod_shm = true;
    options.external[plan::kPodMountNamespace] = pod->mount.get();
    return ParseSections(bundle.Run(options));
  };
  EXPECT_EQ(run({{"write", "/dev/shm/shared", "x"}}).at("write /dev/shm/shared x"), "ok");
  const Sections out =
      run({{"ls", "/dev/shm"}, {"cat", "/proc/self/mountinfo"}, {"stat", "/dev/shm"}});
  EXPECT_EQ(out.at("ls /dev/shm"), "shared");
  EXPECT_TRUE(absl::StartsWith(out.at("stat /dev/shm"), "dir 1777"));
  EXPECT_TRUE(absl::StrContains(MountLine(out.at("cat /proc/self/mountinfo"), "/dev/shm"),
                                "nosuid,nodev,noexec"));
}

TEST(ContainerTest, NamespacesGivenByPathAreJoined) {
  Bundle bundle;
  Running first;
  StartWaiting(bundle.Options(bundle.DefaultSpec()), &first);
  ASSERT_NE(first.container, nullptr);
  spec::Spec spec = bundle.DefaultSpec();
  spec.hostname.clear();
  const std::string ns = absl::StrCat("/proc/", first.container->pid(), "/ns/");
  for (spec::Namespace& entry : spec.linux_.namespaces) {
    if (entry.type == NamespaceType::kPid) entry.path = ns + "pid";
    if (entry.type == NamespaceType::kIpc) entry.path = ns + "ipc";
    if (entry.type == NamespaceType::kUts) entry.path = ns + "uts";
    if (entry.type == NamespaceType::kNetwork) entry.path = ns + "net";
  }
  const Sections out = bundle.RunProbe(spec, {{"pid"}, {"ls", "/proc"}, {"names"}});
  EXPECT_EQ(out.at("pid"), "2 0 2");
  EXPECT_EQ(Line(out.at("ls /proc"), "1"), "1");
  // Of another kind than the specification says.
  spec.linux_.namespaces[0].path = ns + "net";
  auto container = Container::Create(bundle.Options(spec));
  EXPECT_TRUE(absl::StrContains(container.status().message(), "open namespace"))
      << container.status();
}

TEST(ContainerTest, AUserNamespaceOwnsTheOthersAndMapsRoot) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.namespaces.push_back({NamespaceType::kUser, ""});
  spec.linux_.uid_mappings = {{0, 100000, 65536}};
  spec.linux_.gid_mappings = {{0, 100000, 65536}};
  Container::Options options = bundle.Options(spec);
  options.inputs.overlay->idmap_lower = true;
  Running running;
  StartWaiting(options, &running,
               {{"pid"},
                {"ids"},
                {"cat", "/proc/self/uid_map"},
                {"stat", "/bin/probe"},
                {"stat", "/"},
                {"write", "/tmp/x", "y"},
                {"write", "/dev/null", "y"},
                {"stat", "/dev/null"},
                {"sethostname"},
                {"cat", "/proc/self/mountinfo"}});
  ASSERT_NE(running.container, nullptr);
  struct stat st;
  ASSERT_EQ(stat(absl::StrCat("/proc/", running.container->pid()).c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 100000u);
  running.in.write_end.reset();
  const Sections out = ParseSections(running.out.ReadAll());
  EXPECT_EQ(out.at("pid"), "1 0 1");
  EXPECT_EQ(out.at("ids"), "0 0 0 0:");
  EXPECT_TRUE(absl::StrContains(out.at("cat /proc/self/uid_map"), "100000"));
  EXPECT_TRUE(absl::StrContains(out.at("stat /bin/probe"), "uid=0 gid=0"));
  EXPECT_TRUE(absl::StrContains(out.at("stat /"), "uid=0 gid=0"));
  EXPECT_EQ(out.at("write /tmp/x y"), "ok");
  EXPECT_EQ(out.at("write /dev/null y"), "ok");
  EXPECT_TRUE(absl::StrContains(out.at("stat /dev/null"), "char 666 1:3"));
}

TEST(ContainerTest, ACgroupThatExistsAlreadyIsAnError) {
  Bundle bundle;
  Container::Options options = bundle.Options(bundle.DefaultSpec());
  const std::string& path = options.inputs.cgroups.back().path;
  std::filesystem::create_directory(path);
  const Residue before = bundle.Count();
  auto container = Container::Create(options);
  EXPECT_EQ(container.status().message(),
            absl::StrCat("make cgroup \"", path, "\": File exists (EEXIST)"));
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

TEST(ContainerTest, GroupsThatThePayloadMadeGoWithItsOwn) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.back().options = {"nosuid", "noexec", "nodev"};  // a writable cgroup mount
  const Sections out = bundle.RunProbe(spec, {{"mkdir", "/sys/fs/cgroup/pids/a"},
                                              {"mkdir", "/sys/fs/cgroup/pids/a/b"},
                                              {"mkdir", "/sys/fs/cgroup/pids/c"}});
  EXPECT_EQ(out.at("mkdir /sys/fs/cgroup/pids/a/b"), "ok");
  EXPECT_EQ(bundle.Count().cgroups, std::vector<std::string>());
}

TEST(ContainerTest, EveryOperationIsTimed) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"exit", "0"}});
  auto container = Container::Create(bundle.Options(spec));
  ASSERT_TRUE(container.ok()) << container.status();
  const std::vector<stage::Timing> timings = (*container)->Timings();
  EXPECT_GT(timings.size(), 80u);
  EXPECT_EQ(timings[0].operation, "make cgroup");
}

}  // namespace
}  // namespace davit::runtime
