// What a container finds in its rootfs: mounts, devices, masks.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "runtime/container.h"
#include "runtime/testing/bundle.h"

namespace davit::runtime {
namespace {

using testing::Bundle;
using testing::MountLine;
using testing::ParseSections;
using testing::Pipe;
using testing::Residue;
using testing::Running;
using testing::Sections;
using testing::StartWaiting;

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

TEST(ContainerMountTest, MountsHaveTheirTypesAndFlags) {
  Bundle bundle;
  const std::string group = bundle.CgroupInside("memory") + "/x";
  const Sections out = bundle.RunProbe(bundle.DefaultSpec(), {{"cat", "/proc/self/mountinfo"},
                                                              {"stat", "/dev/shm"},
                                                              {"stat", "/proc"},
                                                              {"write", "/sys/x", ""},
                                                              {"mkdir", group},
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
  EXPECT_TRUE(absl::StrContains(MountLine(mounts, "/sys/fs/cgroup"), bundle.layout().IsPureV2()
                                                                         ? "- cgroup2 cgroup "
                                                                         : "- tmpfs tmpfs "));
  EXPECT_EQ(out.at("stat /dev/shm").substr(0, 8), "dir 1777");
  EXPECT_EQ(out.at("stat /proc").substr(0, 7), "dir 555");
  EXPECT_EQ(out.at("write /sys/x "), "EROFS");
  EXPECT_EQ(out.at(absl::StrCat("mkdir ", group)), "EROFS");
  EXPECT_EQ(out.at("write /file x"), "ok");
  for (const absl::string_view line : absl::StrSplit(mounts, '\n')) {
    EXPECT_FALSE(absl::StrContains(line, "shared:")) << line;
    EXPECT_FALSE(absl::StrContains(line, "master:")) << line;
  }
}

TEST(ContainerMountTest, DevHoldsTheDefaultNodesAndLinks) {
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

TEST(ContainerMountTest, MaskedAndReadOnlyPathsAre) {
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

TEST(ContainerMountTest, BindMountsKeepTheirOptionsAndMissingSourcesAreMade) {
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

TEST(ContainerMountTest, MissingBindSourcesAreAnErrorWhereThatIsWanted) {
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

TEST(ContainerMountTest, RecursiveReadOnlyCoversSubmountsAndPlainReadOnlyDoesNot) {
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

TEST(ContainerMountTest, PropagationIsWhatTheMountAsksFor) {
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

TEST(ContainerMountTest, ReadOnlyRootsStayUsableForMounts) {
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

TEST(ContainerMountTest, WhatDanglingLinksOfTheImageLeadToIsMade) {
  namespace fs = std::filesystem;
  Bundle bundle;
  const std::string root = bundle.rootfs();
  fs::create_directories(root + "/etc");
  fs::create_directories(root + "/var");
  fs::create_symlink("../run/systemd/resolve/stub-resolv.conf", root + "/etc/resolv.conf");
  fs::create_symlink("/nowhere/run", root + "/var/run");
  fs::create_symlink("loop", root + "/etc/loop");
  { std::ofstream(bundle.dir() + "/resolv.conf") << "nameserver 192.0.2.1"; }
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/etc/resolv.conf", "bind", bundle.dir() + "/resolv.conf", {"rbind"}});
  spec.mounts.push_back({"/var/run/secrets/token", "tmpfs", "tmpfs", {}});
  const Sections out =
      bundle.RunProbe(spec, {{"cat", "/etc/resolv.conf"}, {"cat", "/proc/self/mountinfo"}});
  EXPECT_EQ(out.at("cat /etc/resolv.conf"), "nameserver 192.0.2.1");
  const std::string& mounts = out.at("cat /proc/self/mountinfo");
  EXPECT_TRUE(absl::StrContains(mounts, " /run/systemd/resolve/stub-resolv.conf ")) << mounts;
  EXPECT_TRUE(absl::StrContains(mounts, " /nowhere/run/secrets/token ")) << mounts;

  spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/etc/loop", "bind", bundle.dir() + "/resolv.conf", {"rbind"}});
  EXPECT_FALSE(Container::Create(bundle.Options(spec)).ok());
}

TEST(ContainerMountTest, ATmpfsWithoutAModeLooksLikeWhatItCovers) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.mounts.push_back({"/tmp", "tmpfs", "tmpfs", {"nosuid"}});
  const Sections out = bundle.RunProbe(spec, {{"stat", "/tmp"}});
  EXPECT_TRUE(absl::StartsWith(out.at("stat /tmp"), "dir 1777"));
}

TEST(ContainerMountTest, TheRootfsCloneReadsWhileItRunsAndAfterItsDeath) {
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

TEST(ContainerMountTest, ABundlesOwnRootfsDirectoryIsBound) {
  Bundle bundle;
  spec::Spec spec = bundle.DefaultSpec();
  spec.process->args = Bundle::Probe({{"write", "/data/out", "x"}});
  Container::Options options = bundle.Options(spec);
  options.inputs.overlay.reset();
  bundle.Run(options);
  EXPECT_TRUE(std::filesystem::exists(bundle.rootfs() + "/data/out"));
}

TEST(ContainerMountTest, TheOverlayForOlderKernelsIsMadeInsideAndItsCloneHandedOver) {
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

}  // namespace
}  // namespace davit::runtime
