#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <set>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "runtime/plan/context.h"
#include "runtime/plan/mount_options.h"

namespace davit::runtime::plan {
namespace {

struct DefaultDevice {
  const char* name;
  unsigned major;
  unsigned minor;
};
// runtime-spec config-linux.md, "Default Devices".
constexpr DefaultDevice kDefaultDevices[] = {
    {"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
    {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
};

struct Link {
  const char* name;
  const char* target;
};
constexpr Link kLinks[] = {
    {"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"},
    {"stderr", "/proc/self/fd/2"}, {"core", "/proc/kcore"},      {"ptmx", "pts/ptmx"},
};

mode_t TypeBits(const std::string& type) {
  if (type == "b") return S_IFBLK;
  if (type == "p") return S_IFIFO;
  return S_IFCHR;
}

// In `base` (-1: the rootfs) at `path`. A user namespace may not make device nodes: there the
// host's are cloned and laid over an empty file.
void AddNode(Context& context, int32_t base, const std::string& path, const std::string& host_path,
             mode_t mode, uint64_t device, uint32_t uid, uint32_t gid) {
  Builder& builder = context.builder;
  if (!context.user_namespace || S_ISFIFO(mode)) {
    Op& op = builder.Child(Code::kMakeNode);
    op.a = base;
    op.s = builder.String(path);
    op.x = mode;
    op.y = device;
    op.z = uid;
    op.w = gid;
    return;
  }
  Op& open = builder.Parent(Code::kOpenBind);
  open.b = builder.NewSlot();
  open.s = builder.String(host_path);
  open.propagation = MS_PRIVATE;
  const int32_t slot = open.b;
  Op& attach = builder.Child(Code::kAttachMount);
  attach.a = slot;
  attach.b = base;
  attach.s = builder.String(path);
  attach.flags = kFile;
}

void AddSpecDevice(Context& context, int32_t base, const std::string& path,
                   const spec::Device& device) {
  const mode_t mode = TypeBits(device.type) | (device.file_mode.value_or(0666) & 07777);
  const uint64_t number = device.type == "p" ? 0
                                             : makedev(static_cast<unsigned>(device.major),
                                                       static_cast<unsigned>(device.minor));
  AddNode(context, base, path, device.path, mode, number, device.uid.value_or(0),
          device.gid.value_or(0));
}

void AddNodesAndLinks(Context& context, int32_t base, const std::string& prefix) {
  Builder& builder = context.builder;
  std::set<std::string> listed;
  for (const spec::Device& device : context.spec.linux_.devices) {
    const std::string path = CleanPath(device.path);
    listed.insert(path);
    if (!IsBeneath(path, "/dev")) continue;
    AddSpecDevice(context, base, absl::StrCat(prefix, absl::StripPrefix(path, "/dev/")), device);
  }
  for (const DefaultDevice& device : kDefaultDevices) {
    const std::string path = absl::StrCat("/dev/", device.name);
    if (listed.count(path) != 0) continue;
    AddNode(context, base, absl::StrCat(prefix, device.name), path, S_IFCHR | 0666,
            makedev(device.major, device.minor), 0, 0);
  }
  for (const Link& link : kLinks) {
    Op& op = builder.Child(Code::kMakeSymlink);
    op.a = base;
    op.s = builder.String(absl::StrCat(prefix, link.name));
    op.t = builder.String(link.target);
  }
}

// Directories for the mounts that follow, so that attaching them finds something.
void AddMountPoints(Context& context, int32_t dev) {
  for (const spec::Mount& mount : context.spec.mounts) {
    const std::string path = CleanPath(mount.destination);
    if (!IsBeneath(path, "/dev") || path == "/dev" || mount.type == "bind") continue;
    const std::string name = path.substr(5);
    if (name.find('/') != std::string::npos) continue;
    Op& op = context.builder.Child(Code::kMakeDirectory);
    op.a = dev;
    op.s = context.builder.String(name);
    op.x = 0755;
  }
}

}  // namespace

absl::Status CompileDev(Context& context, const spec::Mount* dev_mount, int32_t* dev_slot,
                        bool* readonly) {
  if (dev_mount == nullptr) {
    // No mount at /dev: the rootfs' own directory holds the nodes.
    AddNodesAndLinks(context, -1, "/dev/");
    return absl::OkStatus();
  }
  absl::StatusOr<MountOptions> options = ParseMountOptions(dev_mount->options);
  if (!options.ok()) return options.status();
  Builder& builder = context.builder;
  Op& make = builder.Child(Code::kNewMount);
  const int32_t slot = builder.NewSlot();
  make.b = slot;
  make.s = builder.String("tmpfs");
  make.t = builder.List(options->filesystem);
  make.u = builder.String(dev_mount->source.empty() ? "tmpfs" : dev_mount->source);
  *readonly = (options->set & MOUNT_ATTR_RDONLY) != 0;
  // Never nodev: the nodes are the point.
  make.x = options->set & ~static_cast<uint64_t>(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV);
  *dev_slot = slot;

  // Filled while it is detached: nothing that an image brought lies on these paths.
  AddMountPoints(context, slot);
  if (!context.user_namespace) AddNodesAndLinks(context, slot, "");
  Op& attach = builder.Child(Code::kAttachMount);
  attach.a = slot;
  attach.s = builder.String("/dev");
  attach.flags = kDirectory | kNoSymlinks;
  if (*readonly || context.user_namespace) attach.flags |= kKeepSlot;
  // Mounts cannot be attached to a detached tree before 6.15.
  if (context.user_namespace) AddNodesAndLinks(context, slot, "");
  return absl::OkStatus();
}

absl::Status CompileOtherDevices(Context& context) {
  for (const spec::Device& device : context.spec.linux_.devices) {
    const std::string path = CleanPath(device.path);
    if (path == "/dev" || path == "/") {
      return absl::InvalidArgumentError(
          absl::StrCat("linux.devices: ", device.path, " is a directory"));
    }
    if (IsBeneath(path, "/dev")) continue;
    AddSpecDevice(context, -1, path, device);
  }
  return absl::OkStatus();
}

}  // namespace davit::runtime::plan
