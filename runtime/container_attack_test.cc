// What hostile images and volumes have tried against container runtimes; the rule that each test
// holds is named by its first victim.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using testing::Bundle;
using testing::Residue;
using testing::Sections;
namespace fs = std::filesystem;

// Replaces a directory of the rootfs by a link.
void Link(const Bundle& bundle, const std::string& path, const std::string& target) {
  fs::remove_all(bundle.rootfs() + path);
  fs::create_symlink(target, bundle.rootfs() + path);
}

absl::Status CreateStatus(Bundle& bundle, const spec::Spec& spec) {
  return Container::Create(bundle.Options(spec)).status();
}

// CVE-2019-19921, CVE-2023-27561, CVE-2025-54867.
TEST(ContainerAttackTest, ALinkAtProcSysOrDevIsRefused) {
  for (const char* path : {"/proc", "/sys", "/dev"}) {
    Bundle bundle;
    Link(bundle, path, "/tmp");
    const absl::Status status = CreateStatus(bundle, bundle.DefaultSpec());
    EXPECT_EQ(status.message(),
              absl::StrCat("mount \"", path, "\": Too many levels of symbolic links (ELOOP)"));
  }
}

// CVE-2021-30465, CVE-2024-45310.
TEST(ContainerAttackTest, AMountTargetThatLeadsOutsideStaysInside) {
  Bundle bundle;
  fs::create_directory(bundle.dir() + "/host");
  fs::create_symlink(bundle.dir() + "/host", bundle.rootfs() + "/out");
  fs::create_symlink("../../../../../../../../.." + bundle.dir() + "/host",
                     bundle.rootfs() + "/up");
  fs::create_directory(bundle.dir() + "/source");
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/out/made", "bind", bundle.dir() + "/source", {"rbind"}});
  spec.mounts.push_back({"/up/made", "tmpfs", "tmpfs", {}});
  // What the links lead to is missing inside, and is made there: never outside.
  const absl::Status status = CreateStatus(bundle, spec);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(fs::is_empty(bundle.dir() + "/host"));
  // With the target there inside, the mount lands on it.
  fs::create_directories(bundle.rootfs() + bundle.dir() + "/host");
  const Sections out = bundle.RunProbe(spec, {{"cat", "/proc/self/mountinfo"}});
  EXPECT_TRUE(absl::StrContains(out.at("cat /proc/self/mountinfo"),
                                absl::StrCat(" ", bundle.dir(), "/host/made ")));
  EXPECT_TRUE(fs::is_empty(bundle.dir() + "/host"));
}

TEST(ContainerAttackTest, ATargetThatIsSwappedWhileItIsResolvedNeverLeadsOutside) {
  Bundle bundle;
  fs::create_directory(bundle.dir() + "/host");
  fs::create_directories(bundle.dir() + "/volume/a");
  fs::create_symlink(bundle.dir() + "/host", bundle.dir() + "/volume/b");
  std::atomic<bool> stop = false;
  std::thread swapper([&] {
    const std::string a = bundle.dir() + "/volume/a";
    const std::string b = bundle.dir() + "/volume/b";
    while (!stop) renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE);
  });
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"exit", "0"}});
  spec.mounts.push_back({"/volume", "bind", bundle.dir() + "/volume", {"rbind"}});
  spec.mounts.push_back({"/volume/a/x/y", "tmpfs", "tmpfs", {}});
  for (int i = 0; i < 60; ++i) (void)CreateStatus(bundle, spec);
  stop = true;
  swapper.join();
  EXPECT_TRUE(fs::is_empty(bundle.dir() + "/host"));
}

// CVE-2025-31133: the source of a mask is not a path inside the container.
TEST(ContainerAttackTest, MasksDoNotComeFromTheImagesDevNull) {
  Bundle bundle;
  std::ofstream(bundle.rootfs() + "/dev/null") << "not the device";
  std::ofstream(bundle.rootfs() + "/etc/secret") << "secret";
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.masked_paths.push_back("/etc/secret");
  spec.linux_.masked_paths.push_back("/dev/null");
  const Sections out = bundle.RunProbe(
      spec, {{"stat", "/etc/secret"}, {"cat", "/etc/secret"}, {"stat", "/dev/null"}});
  EXPECT_TRUE(absl::StrContains(out.at("stat /etc/secret"), "char 666 1:3"));
  EXPECT_EQ(out.at("cat /etc/secret"), "");
  EXPECT_TRUE(absl::StrContains(out.at("stat /dev/null"), "char 666 1:3"));
}

TEST(ContainerAttackTest, MasksAndReadOnlyPathsBehindLinksCoverWhatTheyLeadTo) {
  Bundle bundle;
  std::ofstream(bundle.rootfs() + "/etc/real") << "secret";
  fs::create_symlink("/etc/real", bundle.rootfs() + "/etc/link");
  fs::create_symlink("/missing", bundle.rootfs() + "/etc/dangling");
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.masked_paths.push_back("/etc/link");
  spec.linux_.masked_paths.push_back("/etc/dangling");
  spec.linux_.masked_paths.push_back("/etc/real/not-a-directory");
  const Sections out = bundle.RunProbe(spec, {{"cat", "/etc/real"}});
  EXPECT_EQ(out.at("cat /etc/real"), "");
}

// CVE-2024-21626.
TEST(ContainerAttackTest, AWorkingDirectoryBehindADescriptorIsNoWayOut) {
  Bundle bundle;
  for (int fd = 3; fd < 40; ++fd) {
    spec::Spec spec = bundle.DefaultSpec();
    spec.process->cwd = absl::StrCat("/proc/self/fd/", fd);
    EXPECT_FALSE(CreateStatus(bundle, spec).ok()) << fd;
  }
  fs::create_symlink("/proc/self/fd/8", bundle.rootfs() + "/work");
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->cwd = "/work";
  EXPECT_FALSE(CreateStatus(bundle, spec).ok());
}

// CVE-2019-16884, CVE-2025-52881: nothing of an image or a volume covers /proc.
TEST(ContainerAttackTest, MountsInsideProcAreRefusedAlsoByWayOfALink) {
  Bundle bundle;
  fs::create_directory(bundle.dir() + "/volume");
  for (const char* target : {"/proc/self/attr", "/proc/sys", "/tmp/../proc/1"}) {
    spec::Spec spec = bundle.DefaultSpec();
    spec.mounts.push_back({target, "bind", bundle.dir() + "/volume", {"rbind"}});
    EXPECT_TRUE(absl::StrContains(CreateStatus(bundle, spec).message(), "inside /proc")) << target;
  }
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/proc", "tmpfs", "tmpfs", {}});
  EXPECT_TRUE(absl::StrContains(CreateStatus(bundle, spec).message(), "only a procfs"));
  fs::create_symlink("/proc/sys", bundle.rootfs() + "/innocent");
  spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/innocent", "bind", bundle.dir() + "/volume", {"rbind"}});
  EXPECT_EQ(CreateStatus(bundle, spec).message(),
            "mount \"/innocent\": Operation not permitted (EPERM)");
}

// CVE-2022-0811: a value is a value.
TEST(ContainerAttackTest, SysctlsOfTheHostCannotBeNamed) {
  Bundle bundle;
  for (const char* key :
       {"kernel.core_pattern", "vm.overcommit_memory", "net/../kernel/core_pattern",
        "net.ipv4/../../kernel/core_pattern", "kernel.hostname", "fs.file-max",
        "user.max_user_namespaces", "", ".", "net."}) {
    spec::Spec spec = bundle.DefaultSpec();
    spec.linux_.sysctl = {{key, "1"}};
    EXPECT_EQ(CreateStatus(bundle, spec).code(), absl::StatusCode::kInvalidArgument) << key;
  }
  spec::Spec spec = bundle.DefaultSpec();
  spec.linux_.namespaces.pop_back();
  spec.linux_.namespaces.pop_back();  // the network namespace
  spec.linux_.sysctl = {{"net.ipv4.ip_forward", "1"}};
  EXPECT_EQ(CreateStatus(bundle, spec).code(), absl::StatusCode::kInvalidArgument);
}

// CVE-2016-9962.
TEST(ContainerAttackTest, AWaitingContainerCannotBeReadThroughProc) {
  Bundle bundle;
  auto container = Container::Create(bundle.Options(bundle.DefaultSpec()));
  ASSERT_TRUE(container.ok()) << container.status();
  std::ifstream status(absl::StrCat("/proc/", (*container)->pid(), "/status"));
  struct stat st;
  ASSERT_EQ(stat(absl::StrCat("/proc/", (*container)->pid(), "/maps").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 0u);
  // It holds its standard descriptors and the line to its creator, and nothing of the host's.
  int count = 0;
  for (const auto& entry :
       fs::directory_iterator(absl::StrCat("/proc/", (*container)->pid(), "/fd"))) {
    (void)entry;
    ++count;
  }
  EXPECT_EQ(count, 4);
}

// CVE-2025-52565: the console is a pty of the container's own devpts or nothing.
TEST(ContainerAttackTest, APtmxThatIsNotOneIsRefused) {
  Bundle bundle;
  fs::create_directories(bundle.rootfs() + "/dev/pts");
  std::ofstream(bundle.rootfs() + "/dev/pts/ptmx") << "x";
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->terminal = true;
  spec.mounts.erase(spec.mounts.begin() + 1, spec.mounts.begin() + 5);  // all of /dev
  EXPECT_EQ(CreateStatus(bundle, spec).message(), "set up console: No such device (ENODEV)");
}

TEST(ContainerAttackTest, RefusedContainersLeaveNothing) {
  Bundle bundle;
  const Residue before = bundle.Count();
  Link(bundle, "/proc", "/tmp");
  EXPECT_FALSE(CreateStatus(bundle, bundle.DefaultSpec()).ok());
  EXPECT_EQ(bundle.Count(), before) << bundle.Count().ToString();
}

}  // namespace
}  // namespace davit::runtime
