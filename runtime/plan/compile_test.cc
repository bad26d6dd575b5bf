#include "runtime/plan/compile.h"

#include <gtest/gtest.h>
#include <linux/sched.h>
#include <sys/mount.h>

#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/plan/mount_options.h"
#include "runtime/plan/plan.h"

namespace davit::runtime::plan {
namespace {

using spec::NamespaceType;

spec::Spec SmallSpec() {
  spec::Spec spec;
  spec.process.emplace();
  spec.process->args = {"sh", "-c", "true"};
  spec.process->env = {"PATH=/bin"};
  spec.process->no_new_privileges = true;
  spec.root.path = "rootfs";
  spec.linux_.namespaces = {{NamespaceType::kMount, ""}, {NamespaceType::kPid, ""}};
  return spec;
}

CreateInputs SmallInputs() {
  CreateInputs inputs;
  inputs.container_id = "c1";
  inputs.bundle_dir = "/bundle";
  inputs.features.overlay_lowerdir_append = true;
  inputs.features.clone_detached_mount = true;
  return inputs;
}

std::string Compile(const spec::Spec& spec, const CreateInputs& inputs) {
  auto plan = CompileCreate(spec, inputs);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? Describe(plan->blob) : "";
}

std::string Error(const spec::Spec& spec, const CreateInputs& inputs) {
  auto plan = CompileCreate(spec, inputs);
  EXPECT_FALSE(plan.ok());
  return std::string(plan.status().message());
}

// The names of one side's operations, in order.
std::vector<std::string> Lines(const std::string& text, absl::string_view side) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::StartsWith(line, side)) lines.emplace_back(line.substr(side.size() + 1));
  }
  return lines;
}

size_t Position(const std::string& text, absl::string_view piece) {
  const size_t at = text.find(std::string(piece));
  EXPECT_NE(at, std::string::npos) << piece << " in\n" << text;
  return at;
}

TEST(CompileTest, TheSmallestContainerIsThisList) {
  spec::Spec spec = SmallSpec();
  spec.mounts = {{"/proc", "proc", "proc", {"nosuid"}}};
  const std::string text = Compile(spec, SmallInputs());
  EXPECT_EQ(Lines(text, "parent"),
            (std::vector<std::string>{
                "open bind source b=16 propagation=0x44000 flags=0x41 \"/bundle/rootfs\"",
                "clone rootfs a=16 b=17"}));
  const std::vector<std::string> child = Lines(text, "child");
  const std::vector<std::string> begin = {"set up stdio a=0 b=1 c=2",
                                          "make namespaces x=0x20000",
                                          "make mounts private",
                                          "attach rootfs a=16",
                                          "make mount b=18 x=0x2 \"proc\" \"proc\"",
                                          "mount a=18 flags=0x540 \"/proc\""};
  EXPECT_EQ(std::vector<std::string>(child.begin(), child.begin() + 6), begin) << text;
  const std::vector<std::string> end = {"change root",
                                        "join session keyring \"_ses.c1\"",
                                        "make session",
                                        "close descriptors",
                                        "change directory \"/\"",
                                        "set umask x=0x12",
                                        "drop bounding capabilities",
                                        "set user",
                                        "set capabilities",
                                        "check working directory \"/\"",
                                        "set no_new_privs",
                                        "wait for start",
                                        "exec \"sh -c true \" \"PATH=/bin \" \"/bin\""};
  EXPECT_EQ(std::vector<std::string>(child.end() - static_cast<int>(end.size()), child.end()), end)
      << text;
}

TEST(CompileTest, EqualInputsGiveEqualBytes) {
  EXPECT_EQ(CompileCreate(SmallSpec(), SmallInputs())->blob,
            CompileCreate(SmallSpec(), SmallInputs())->blob);
}

TEST(CompileTest, CgroupsAreFilledWhileEmptyAndEnteredByTasks) {
  CreateInputs inputs = SmallInputs();
  inputs.cgroups = {{.path = "/cg/pids/c", .writes = {{"pids.max", "5", 1}}},
                    {.path = "/cg/unified/c", .unified = true, .device_program = "12345678"}};
  const std::string text = Compile(SmallSpec(), inputs);
  EXPECT_LT(Position(text, "make cgroup b=16 x=0x1ed \"/cg/pids/c\""),
            Position(text, "write cgroup file a=16 x=0x1 \"pids.max\" \"5\""));
  EXPECT_LT(Position(text, "make cgroup b=17 x=0x1ed \"/cg/unified/c\""),
            Position(text, "attach device program a=17"));
  EXPECT_LT(Position(text, "open cgroup file a=16 b=20 \"tasks\""),
            Position(text, "enter cgroup a=20 \"/cg/pids/c\""));
  EXPECT_LT(Position(text, "enter cgroup"), Position(text, "make namespaces"));
  EXPECT_FALSE(absl::StrContains(text, "cgroup.procs"));
  inputs.cgroups.push_back({.path = "/cg/x", .unified = true});
  EXPECT_TRUE(absl::StrContains(Error(SmallSpec(), inputs), "two unified"));
  inputs.cgroups = {{.path = "/cg/../x"}};
  EXPECT_TRUE(absl::StrContains(Error(SmallSpec(), inputs), "clean absolute path"));
  inputs.cgroups = {{.path = "/cg/x", .writes = {{"../release_agent", "/x"}}}};
  EXPECT_TRUE(absl::StrContains(Error(SmallSpec(), inputs), "not the name of a cgroup file"));
}

TEST(CompileTest, NamespacesAreMadeJoinedOrInherited) {
  spec::Spec spec = SmallSpec();
  spec.linux_.namespaces = {{NamespaceType::kMount, ""},     {NamespaceType::kPid, "/p"},
                            {NamespaceType::kNetwork, "/n"}, {NamespaceType::kIpc, "/i"},
                            {NamespaceType::kUts, ""},       {NamespaceType::kCgroup, ""}};
  CreateInputs inputs = SmallInputs();
  inputs.inherited = {NamespaceType::kNetwork};
  inputs.join_pod_mount_namespace = true;
  auto plan = CompileCreate(spec, inputs);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::string text = Describe(plan->blob);
  const auto& header = *reinterpret_cast<const Header*>(plan->blob.data());
  EXPECT_EQ(header.clone_flags, uint64_t{CLONE_NEWUTS});
  EXPECT_GE(header.pid_namespace, kExternalSlots);
  EXPECT_FALSE(absl::StrContains(text, "\"/n\""));
  EXPECT_TRUE(absl::StrContains(text, "open namespace b=19 x=0x8000000 \"/i\""));
  EXPECT_LT(Position(text, "join namespaces a=19 x=0x8000000"),
            Position(text, "join namespaces a=4 x=0x20000"));
  EXPECT_LT(Position(text, "join namespaces a=4 x=0x20000"),
            Position(text, "make namespaces x=0x2020000"));
  inputs.join_pid_namespace = true;
  plan = CompileCreate(spec, inputs);
  EXPECT_EQ(reinterpret_cast<const Header*>(plan->blob.data())->pid_namespace, kPidNamespace);
}

TEST(CompileTest, AUserNamespaceIsEnteredBeforeTheOthersAreMade) {
  spec::Spec spec = SmallSpec();
  spec.linux_.namespaces.push_back({NamespaceType::kUser, ""});
  EXPECT_TRUE(absl::StrContains(Error(spec, SmallInputs()), "uidMappings"));
  spec.linux_.uid_mappings = {{0, 1000, 10}, {10, 5000, 10}};
  spec.linux_.gid_mappings = {{0, 2000, 20}};
  spec.process->user.uid = 12;
  spec.process->rlimits = {{"RLIMIT_NOFILE", 5, 50}};
  spec.mounts = {{"/dev", "tmpfs", "tmpfs", {}}};
  const std::string text = Compile(spec, SmallInputs());
  EXPECT_TRUE(absl::StrContains(text, "make user namespace b=16 \"0 1000 10.10 5000 10.\""));
  EXPECT_TRUE(absl::StrContains(text, "set up stdio a=0 b=1 c=2 x=0x138a"));  // 5002
  EXPECT_LT(Position(text, "child set rlimit x=0x7 y=0x5 z=0x32 flags=0x1000"),
            Position(text, "join namespaces a=16 x=0x10000000"));
  EXPECT_LT(Position(text, "become root"), Position(text, "clone again x=0x20000000"));
  EXPECT_LT(Position(text, "clone again"), Position(text, "make namespaces"));
  // Nodes are the host's, bound.
  EXPECT_TRUE(absl::StrContains(text, "\"/dev/null\""));
  EXPECT_FALSE(absl::StrContains(text, "make device"));
}

TEST(CompileTest, PathsOfUsersComeLastAndOwnOnesFirst) {
  spec::Spec spec = SmallSpec();
  spec.mounts = {{"/a", "bind", "/home/x", {"rbind", "rro"}},
                 {"/etc/hosts", "bind", "/run/davit/pods/p/hosts", {"bind"}}};
  spec.linux_.masked_paths = {"/proc/kcore"};
  CreateInputs inputs = SmallInputs();
  inputs.own_paths = {"/run/davit"};
  const std::vector<std::string> parent = Lines(Compile(spec, inputs), "parent");
  EXPECT_TRUE(absl::StrContains(parent.back(), "\"/home/x\"")) << parent.back();
  EXPECT_TRUE(absl::StrContains(parent.back(), "z=0x1 propagation=0x44000 flags=0x19"));
  inputs.create_missing_bind_sources = false;
  EXPECT_TRUE(absl::StrContains(Lines(Compile(spec, inputs), "parent").back(), "flags=0x11"));
}

TEST(CompileTest, SeccompComesLastWithNoNewPrivilegesAndBeforeTheCapabilitiesWithout) {
  spec::Spec spec = SmallSpec();
  CreateInputs inputs = SmallInputs();
  inputs.has_seccomp = true;
  inputs.seccomp_flags = 2;
  std::string text = Compile(spec, inputs);
  EXPECT_LT(Position(text, "wait for start"), Position(text, "load seccomp program a=3 x=0x2"));
  spec.process->no_new_privileges = false;
  text = Compile(spec, inputs);
  EXPECT_LT(Position(text, "load seccomp program"), Position(text, "drop bounding"));
  EXPECT_FALSE(absl::StrContains(text, "no_new_privs"));
}

TEST(CompileTest, CapabilitiesObeyTheCeilingAndTheRulesBetweenTheSets) {
  spec::Spec spec = SmallSpec();
  spec.process->capabilities = spec::Capabilities{.bounding = {"CAP_CHOWN", "CAP_SYS_ADMIN"},
                                                  .effective = {"CAP_CHOWN", "CAP_KILL"},
                                                  .inheritable = {"CAP_KILL", "CAP_CHOWN"},
                                                  .permitted = {"CAP_CHOWN"},
                                                  .ambient = {"CAP_KILL", "CAP_CHOWN"}};
  CreateInputs inputs = SmallInputs();
  inputs.capability_ceiling = 0xff;
  auto plan = CompileCreate(spec, inputs);
  ASSERT_TRUE(plan.ok());
  EXPECT_TRUE(absl::StrContains(Describe(plan->blob), "set capabilities x=0x1 y=0x1 z=0x1 w=0x1"));
  EXPECT_EQ(plan->warnings.size(), 4u);
}

TEST(CompileTest, LimitsAndScoresAreClampedWithAWarning) {
  spec::Spec spec = SmallSpec();
  spec.process->oom_score_adj = -500;
  spec.process->rlimits = {{"RLIMIT_NOFILE", 1048576, 1048576}};
  CreateInputs inputs = SmallInputs();
  inputs.oom_score_adj_floor = -3;
  inputs.rlimit_ceiling = {{"RLIMIT_NOFILE", 20000, 20000}};
  auto plan = CompileCreate(spec, inputs);
  ASSERT_TRUE(plan.ok());
  EXPECT_EQ(plan->oom_score_adj, -3);
  EXPECT_EQ(plan->warnings.size(), 2u);
  EXPECT_TRUE(absl::StrContains(Describe(plan->blob), "set rlimit x=0x7 y=0x4e20 z=0x4e20"));
  EXPECT_TRUE(absl::StrContains(Describe(plan->blob), "set oom_score_adj \"-3\""));
}

TEST(CompileTest, OlderKernelsGetTheOverlayFromWithin) {
  CreateInputs inputs = SmallInputs();
  inputs.overlay =
      OverlayRootfs{.lower_dirs = {"/l/2", "/l/1"}, .upper_dir = "/c/upper", .work_dir = "/c/work"};
  EXPECT_TRUE(
      absl::StrContains(Compile(SmallSpec(), inputs),
                        "make overlay b=16 flags=0x20 \"/l/2 /l/1 \" \"/c/upper\" \"/c/work\""));
  inputs.features.overlay_lowerdir_append = false;
  const std::string text = Compile(SmallSpec(), inputs);
  EXPECT_FALSE(absl::StrContains(text, "make overlay"));
  EXPECT_LT(Position(text, "mount overlay a=17 b=16 c=19 x=0x2 flags=0x20 \"upper\" \"work\""),
            Position(text, "attach rootfs a=16"));
  EXPECT_LT(Position(text, "attach rootfs"), Position(text, "hand over rootfs"));
  inputs.overlay->work_dir = "/elsewhere/work";
  EXPECT_TRUE(absl::StrContains(Error(SmallSpec(), inputs), "share their parent"));
  inputs.overlay->lower_dirs = {"relative"};
  EXPECT_TRUE(absl::StrContains(Error(SmallSpec(), inputs), "absolute"));
}

TEST(CompileTest, WhatCannotBeExecutedIsNamed) {
  const CreateInputs inputs = SmallInputs();
  spec::Spec spec = SmallSpec();
  spec.linux_.namespaces.clear();
  EXPECT_TRUE(absl::StrContains(Error(spec, inputs), "a new mount namespace is required"));
  spec = SmallSpec();
  spec.process.reset();
  EXPECT_TRUE(absl::StrContains(Error(spec, inputs), "process is missing"));
  spec = SmallSpec();
  spec.process->args.clear();
  EXPECT_TRUE(absl::StrContains(Error(spec, inputs), "process.args is empty"));
  spec = SmallSpec();
  spec.process->cwd = "relative";
  EXPECT_TRUE(absl::StrContains(Error(spec, inputs), "process.cwd"));
  spec = SmallSpec();
  spec.hostname = "x";
  EXPECT_TRUE(absl::StrContains(Error(spec, inputs), "UTS namespace"));
  spec = SmallSpec();
  spec.process->apparmor_profile = "confined";
  EXPECT_TRUE(absl::StrContains(Error(spec, inputs), "AppArmor"));
  spec = SmallSpec();
  spec.mounts = {{"/ok", "tmpfs", "tmpfs", {}}, {"/x", "bind", "/y", {"rbind", "remount"}}};
  EXPECT_EQ(Error(spec, inputs), "mounts[1] (/x): the option remount is not supported");
  spec.mounts = {{"//", "tmpfs", "tmpfs", {}}};
  EXPECT_EQ(Error(spec, inputs), "mounts[0] (//): covers the root");
  spec.mounts = {{"/x", "", "x", {}}};
  EXPECT_EQ(Error(spec, inputs), "mounts[0] (/x): has no type");
  spec.mounts = {{"/x", "bind", "", {}}};
  EXPECT_EQ(Error(spec, inputs), "mounts[0] (/x): a bind mount needs a source");
}

TEST(CompileTest, ExecJoinsTheContainerAndMakesOnlyItsLeaf) {
  ExecInputs inputs;
  inputs.container_id = "c1";
  inputs.exec_leaf = "exec-3";
  inputs.cgroups = {{.path = "/cg/pids/c"}, {.path = "/cg/unified/c", .unified = true}};
  auto plan = CompileExec(*SmallSpec().process, inputs);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const std::string text = Describe(plan->blob);
  EXPECT_EQ(
      Lines(text, "parent"),
      (std::vector<std::string>{"make cgroup b=16 x=0x1ed flags=0x2000 \"/cg/pids/c\"",
                                "make cgroup b=17 x=0x1ed flags=0x4000 \"/cg/unified/c/exec-3\"",
                                "open cgroup file a=16 b=18 \"tasks\""}));
  EXPECT_TRUE(absl::StrContains(text, "join namespaces a=7 x=0x2020000"));
  EXPECT_FALSE(absl::StrContains(text, "wait for start"));
  const auto& header = *reinterpret_cast<const Header*>(plan->blob.data());
  EXPECT_EQ(header.kind, Kind::kExec);
  EXPECT_EQ(header.pid_namespace, kTarget);
  EXPECT_EQ(header.clone_cgroup, 17);
  inputs.exec_leaf = "../up";
  EXPECT_FALSE(CompileExec(*SmallSpec().process, inputs).ok());
}

TEST(MountOptionsTest, LaterOptionsWinAndAccessTimesAreOneField) {
  auto options = ParseMountOptions({"ro", "rw", "noatime", "relatime", "nosuid"});
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->set, uint64_t{MOUNT_ATTR_NOSUID});
  EXPECT_EQ(options->clear, uint64_t{MOUNT_ATTR_RDONLY | MOUNT_ATTR__ATIME});
  options = ParseMountOptions({"rbind", "rro", "rslave", "mode=755", "sync", "defaults"});
  ASSERT_TRUE(options.ok());
  EXPECT_TRUE(options->bind && options->recursive);
  EXPECT_EQ(options->recursive_set, uint64_t{MOUNT_ATTR_RDONLY});
  EXPECT_EQ(options->propagation, uint64_t{MS_SLAVE | MS_REC});
  EXPECT_EQ(options->filesystem, (std::vector<std::string>{"mode=755", "sync"}));
}

TEST(MountOptionsTest, KnowsEveryOptionThatTheSpecificationDemands) {
  const std::vector<std::string> known = KnownMountOptions();
  for (const char* option :
       {"async",         "atime",      "bind",        "defaults",    "dev",        "diratime",
        "dirsync",       "exec",       "iversion",    "lazytime",    "loud",       "noatime",
        "nodev",         "nodiratime", "noexec",      "noiversion",  "nolazytime", "norelatime",
        "nostrictatime", "nosuid",     "private",     "rbind",       "relatime",   "ro",
        "rprivate",      "rshared",    "rslave",      "runbindable", "rw",         "shared",
        "silent",        "slave",      "strictatime", "suid",        "sync",       "unbindable",
        "rro",           "rrw",        "rnosuid",     "idmap",       "ridmap",     "nosymfollow"}) {
    EXPECT_TRUE(std::binary_search(known.begin(), known.end(), option)) << option;
  }
}

// Reads everything that a stage would read of a plan.
size_t Touch(const View& view) {
  size_t sum = 0;
  for (const std::span<const Op> ops : {view.parent_ops(), view.child_ops()}) {
    for (const Op& op : ops) {
      for (const Ref ref : {op.s, op.t, op.u}) sum += strlen(view.String(ref)) + ref.size;
      if (op.code == Code::kExec || op.code == Code::kMakeOverlay) {
        ForEachItem(view, op.s, [&](const char* item) { sum += strlen(item); });
      }
    }
  }
  return sum;
}

TEST(ValidateTest, APlanThatPassesCanBeReadHoweverItWasDamaged) {
  spec::Spec spec = SmallSpec();
  spec.process->user.additional_gids = {1, 2, 3};
  spec.mounts = {{"/proc", "proc", "proc", {}}, {"/x", "bind", "/y", {"rbind"}}};
  CreateInputs inputs = SmallInputs();
  inputs.overlay = OverlayRootfs{.lower_dirs = {"/l"}, .upper_dir = "/u", .work_dir = "/w"};
  inputs.cgroups = {{.path = "/cg/pids/c", .writes = {{"pids.max", "5"}}}};
  const std::string good = CompileCreate(spec, inputs)->blob;
  std::mt19937 random(4711);
  int accepted = 0;
  for (int i = 0; i < 200000; ++i) {
    // Exactly sized and on the heap: a read beyond the end is an error under AddressSanitizer.
    size_t size = good.size();
    if (i % 7 == 0) size = random() % (good.size() + 1);
    std::vector<unsigned char> bytes(good.begin(), good.begin() + static_cast<long>(size));
    const unsigned changes = 1 + random() % 4;
    for (unsigned k = 0; k < changes && size > 0; ++k) {
      const size_t at =
          random() % 3 == 0 ? random() % std::min<size_t>(size, sizeof(Header)) : random() % size;
      bytes[at] = static_cast<unsigned char>(random() % 2 == 0 ? random()
                                                               : bytes[at] ^ (1u << random() % 8));
    }
    if (Validate(bytes) != nullptr) continue;
    ++accepted;
    Touch(View(bytes));
    for (const Op& op : View(bytes).child_ops()) {
      for (const int32_t slot : {op.a, op.b, op.c}) {
        ASSERT_LT(slot, static_cast<int32_t>(View(bytes).header().slot_count));
        ASSERT_GE(slot, -1);
      }
    }
  }
  EXPECT_GT(accepted, 1000);  // damage in plain data is no damage to the structure
}

TEST(ValidateTest, PlansMustEndInThePayload) {
  std::string blob = CompileCreate(SmallSpec(), SmallInputs())->blob;
  auto& header = *reinterpret_cast<Header*>(blob.data());
  auto* ops = reinterpret_cast<Op*>(blob.data() + sizeof(Header));
  const auto validate = [&] {
    return Validate({reinterpret_cast<const unsigned char*>(blob.data()), blob.size()});
  };
  EXPECT_EQ(validate(), nullptr);
  ops[header.parent_count + header.child_count - 1].code = Code::kUmask;
  EXPECT_STREQ(validate(), "the last operation is not exec");
  ops[header.parent_count + header.child_count - 1].code = Code::kMakeCgroup;
  EXPECT_STREQ(validate(), "unknown operation");
  header.version = 99;
  EXPECT_STREQ(validate(), "another plan version");
  EXPECT_STREQ(Validate({}), "bad size");
}

}  // namespace
}  // namespace davit::runtime::plan
