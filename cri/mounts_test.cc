#include "cri/mounts.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "proto/api.pb.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using Mounts = google::protobuf::RepeatedPtrField<v1::Mount>;

MountInputs Inputs() {
  MountInputs inputs;
  inputs.hostname_path = "/pod/hostname";
  inputs.hosts_path = "/pod/hosts";
  inputs.resolv_conf_path = "/pod/resolv.conf";
  return inputs;
}

v1::Mount* Add(Mounts* mounts, const std::string& container, const std::string& host) {
  v1::Mount* mount = mounts->Add();
  mount->set_container_path(container);
  mount->set_host_path(host);
  return mount;
}

// One line a mount: "destination type source options".
std::string Show(const absl::StatusOr<std::vector<runtime::spec::Mount>>& mounts) {
  if (!mounts.ok()) return mounts.status().ToString();
  std::string out;
  for (const auto& mount : *mounts) {
    absl::StrAppend(&out, mount.destination, " ", mount.type, " ", mount.source, " ",
                    absl::StrJoin(mount.options, ","), "\n");
  }
  return out;
}

TEST(MountsTest, TheDefaultMounts) {
  EXPECT_EQ(Show(BuildMounts({}, Inputs())),
            "/proc proc proc nosuid,noexec,nodev\n"
            "/dev tmpfs tmpfs nosuid,strictatime,mode=755,size=65536k\n"
            "/sys sysfs sysfs nosuid,noexec,nodev,ro\n"
            "/dev/pts devpts devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5\n"
            "/dev/mqueue mqueue mqueue nosuid,noexec,nodev\n"
            "/dev/shm tmpfs shm nosuid,noexec,nodev,mode=1777,size=65536k\n"
            "/etc/hostname bind /pod/hostname rbind,rprivate,rw\n"
            "/etc/hosts bind /pod/hosts rbind,rprivate,rw\n"
            "/etc/resolv.conf bind /pod/resolv.conf rbind,rprivate,rw\n"
            "/sys/fs/cgroup cgroup cgroup nosuid,noexec,nodev,relatime,ro\n");
}

TEST(MountsTest, PrivilegedReadOnlyAndHostIpcChangeThem) {
  MountInputs inputs = Inputs();
  inputs.privileged = true;
  inputs.readonly_rootfs = true;
  inputs.host_ipc = true;
  const std::string shown = Show(BuildMounts({}, inputs));
  EXPECT_TRUE(absl::StrContains(shown, "/sys sysfs sysfs nosuid,noexec,nodev,rw\n")) << shown;
  EXPECT_TRUE(absl::StrContains(shown, "nodev,relatime,rw\n")) << shown;
  EXPECT_TRUE(absl::StrContains(shown, "/etc/hosts bind /pod/hosts rbind,rprivate,ro\n")) << shown;
  EXPECT_TRUE(absl::StrContains(shown, "/dev/shm bind /dev/shm rbind,rprivate\n")) << shown;
}

TEST(MountsTest, CriMountsReplaceDefaultsAndParentsComeFirst) {
  Mounts mounts;
  Add(&mounts, "/data/sub/deep", "/h3");
  Add(&mounts, "/etc/hosts", "/kubelet/hosts");
  Add(&mounts, "/data/", "/h1")->set_readonly(true);
  Add(&mounts, "/data//sub", "/h2");
  const std::string shown = Show(BuildMounts(mounts, Inputs()));
  EXPECT_FALSE(absl::StrContains(shown, "/pod/hosts")) << shown;
  EXPECT_TRUE(absl::StrContains(shown, "/etc/hosts bind /kubelet/hosts rbind,rprivate,rw\n"));
  const size_t first = shown.find("/data bind /h1 rbind,rprivate,ro\n");
  const size_t second = shown.find("/data/sub bind /h2 rbind,rprivate,rw\n");
  const size_t third = shown.find("/data/sub/deep bind /h3 rbind,rprivate,rw\n");
  ASSERT_NE(third, std::string::npos) << shown;
  EXPECT_LT(first, second);
  EXPECT_LT(second, third);
}

TEST(MountsTest, AMountAtDevReplacesAllDefaultsBeneathIt) {
  Mounts mounts;
  Add(&mounts, "/dev", "/dev");
  const std::string shown = Show(BuildMounts(mounts, Inputs()));
  EXPECT_TRUE(absl::StrContains(shown, "/dev bind /dev rbind,rprivate,rw\n"));
  EXPECT_FALSE(absl::StrContains(shown, "/dev/")) << shown;
}

TEST(MountsTest, RecursiveReadOnlyNeedsReadonlyAndPrivatePropagation) {
  Mounts mounts;
  v1::Mount* mount = Add(&mounts, "/data", "/");
  mount->set_recursive_read_only(true);
  const auto code = [&](const MountInputs& inputs) {
    return BuildMounts(mounts, inputs).status().code();
  };
  EXPECT_EQ(code(Inputs()), absl::StatusCode::kInvalidArgument);
  mount->set_readonly(true);
  EXPECT_TRUE(absl::StrContains(Show(BuildMounts(mounts, Inputs())),
                                "/data bind / rbind,rprivate,ro,rro\n"));
  mount->set_propagation(v1::PROPAGATION_HOST_TO_CONTAINER);
  EXPECT_EQ(code(Inputs()), absl::StatusCode::kInvalidArgument);
  mount->set_propagation(v1::PROPAGATION_BIDIRECTIONAL);
  EXPECT_EQ(code(Inputs()), absl::StatusCode::kInvalidArgument);
  mount->set_propagation(v1::PROPAGATION_PRIVATE);
  MountInputs old_kernel = Inputs();
  old_kernel.recursive_read_only = false;
  EXPECT_TRUE(
      absl::StartsWith(BuildMounts(mounts, old_kernel).status().message(), "RROUnsupported"));
}

TEST(MountsTest, BadMountsAreInvalid) {
  const auto code = [](const std::string& container, const std::string& host) {
    Mounts mounts;
    Add(&mounts, container, host);
    return BuildMounts(mounts, Inputs()).status().code();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code("relative", "/h"), invalid);
  EXPECT_EQ(code("", "/h"), invalid);
  EXPECT_EQ(code("/c", "relative"), invalid);
  EXPECT_EQ(code("/c", ""), invalid);
  EXPECT_EQ(code("/", "/h"), invalid);
  EXPECT_EQ(code("/a/..", "/h"), invalid);
  EXPECT_EQ(code(std::string("/a\0b", 4), "/h"), invalid);
  EXPECT_EQ(code("/" + std::string(5000, 'x'), "/h"), invalid);
  Mounts twice;
  Add(&twice, "/c", "/h1");
  Add(&twice, "/c/", "/h2");
  EXPECT_EQ(BuildMounts(twice, Inputs()).status().code(), invalid);
  Mounts image;
  Add(&image, "/c", "")->mutable_image()->set_image("busybox");
  EXPECT_EQ(BuildMounts(image, Inputs()).status().code(), absl::StatusCode::kUnimplemented);
  Mounts missing;
  Add(&missing, "/c", "/does/not/exist")->set_propagation(v1::PROPAGATION_BIDIRECTIONAL);
  EXPECT_EQ(BuildMounts(missing, Inputs()).status().code(), invalid);
}

TEST(MountsTest, PropagationIsThatOfTheMountThatHoldsThePath) {
  constexpr char kMountinfo[] =
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "30 22 0:20 / /mnt rw - tmpfs tmpfs rw\n"
      "31 30 0:21 / /mnt/a\\040b rw master:7 - tmpfs tmpfs rw\n"
      "32 22 0:22 / /both rw shared:2 master:1 - tmpfs tmpfs rw\n"
      "33 22 0:23 / /over rw shared:3 - tmpfs tmpfs rw\n"
      "34 33 0:24 / /over rw - tmpfs tmpfs rw\n";
  EXPECT_EQ(PropagationOf(kMountinfo, "/var/lib"), Propagation::kShared);
  EXPECT_EQ(PropagationOf(kMountinfo, "/mnt"), Propagation::kPrivate);
  EXPECT_EQ(PropagationOf(kMountinfo, "/mntx"), Propagation::kShared);
  EXPECT_EQ(PropagationOf(kMountinfo, "/mnt/a b/c"), Propagation::kSlave);
  EXPECT_EQ(PropagationOf(kMountinfo, "/both/x"), Propagation::kShared);
  EXPECT_EQ(PropagationOf(kMountinfo, "/over/x"), Propagation::kPrivate);
}

TEST(MountsTest, CleanPathStaysInsideTheRoot) {
  EXPECT_EQ(CleanPath("/a//b/./c/"), "/a/b/c");
  EXPECT_EQ(CleanPath("/../../a/../b"), "/b");
  EXPECT_EQ(CleanPath(""), "/");
}

}  // namespace
}  // namespace davit::cri
