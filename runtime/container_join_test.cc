// Containers that join what is there already, and processes that join containers.

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/container.h"
#include "runtime/stage/namespaces.h"
#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using spec::NamespaceType;
using testing::Bundle;
using testing::Line;
using testing::MountLine;
using testing::ParseSections;
using testing::Pipe;
using testing::Residue;
using testing::Running;
using testing::Sections;
using testing::StartWaiting;

TEST(ContainerJoinTest, ExecSessionsShareTheContainerAndHaveTheirOwnCgroup) {
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

// As systemd in a container does. A group whose children have controllers takes no process itself
// (man 7 cgroups, no internal processes): an exec session has to have a leaf.
TEST(ContainerJoinTest, ExecSessionsEnterAContainerThatManagesItsOwnGroup) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.back().options = {"nosuid", "noexec", "nodev"};  // a writable cgroup mount
  const cgroup::Layout& layout = bundle.layout();
  const std::string group = absl::StrCat("/sys/fs/cgroup", layout.IsPureV2() ? "" : "/unified");
  std::vector<std::vector<std::string>> commands = {{"mkdir", group + "/init"},
                                                    {"write", group + "/init/cgroup.procs", "0"}};
  if (layout.IsPureV2()) commands.push_back({"write", group + "/cgroup.subtree_control", "+pids"});
  Running running;
  StartWaiting(bundle.Options(spec), &running, commands);
  ASSERT_NE(running.container, nullptr);
  std::string seen;
  while (!absl::StrContains(seen, "## wait")) {
    char byte;
    ASSERT_EQ(read(running.out.read_end.get(), &byte, 1), 1) << seen;
    seen.push_back(byte);
  }
  for (const auto& [command, result] : ParseSections(seen)) {
    EXPECT_EQ(result, command == "wait" ? "" : "ok") << command;
  }
  Pipe out;
  spec::Process process = *bundle.DefaultSpec().process;
  process.args = Bundle::Probe({{"cat", "/proc/self/cgroup"}});
  stage::ExternalFds fds;
  fds[plan::kStdout] = out.write_end.get();
  auto session = running.container->Exec(process, fds);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(Line(ParseSections(out.ReadAll()).at("cat /proc/self/cgroup"), "0::"), "0::/exec-1");
  EXPECT_TRUE((*session)->Wait(absl::Now() + absl::Seconds(10)).ok());
}

TEST(ContainerJoinTest, ExecReportsWhatItCannotExecute) {
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

TEST(ContainerJoinTest, ExecSessionsMayHaveATerminal) {
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

TEST(ContainerJoinTest, APodsNamespacesAreJoined) {
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

TEST(ContainerJoinTest, NamespacesGivenByPathAreJoined) {
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

TEST(ContainerJoinTest, AUserNamespaceOwnsTheOthersAndMapsRoot) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.namespaces.push_back({NamespaceType::kUser, ""});
  spec.linux_.uid_mappings = {{0, 100000, 65536}};
  spec.linux_.gid_mappings = {{0, 100000, 65536}};
  Container::Options options = bundle.Options(spec);
  options.inputs.overlay->idmap_lower = true;
  if (!options.inputs.features.overlay_lowerdir_append) {
    EXPECT_TRUE(absl::IsUnimplemented(Container::Create(options).status()));
    GTEST_SKIP() << "no overlay of idmapped layers on this kernel";
  }
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

}  // namespace
}  // namespace davit::runtime
