#include <sys/mount.h>

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/plan/context.h"
#include "runtime/plan/mount_options.h"
#include "runtime/spec/id_mapping.h"
#include "runtime/stage/pod_paths.h"

namespace davit::runtime::plan {
namespace {

// Files of procfs that lxcfs and similar file systems may cover; anything else in /proc would let
// an image forge what the kernel says.
constexpr const char* kProcFiles[] = {
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
};

bool IsOneOf(const std::string& value, const char* const* begin, const char* const* end) {
  return std::find(begin, end, value) != end;
}

bool HasOption(const MountOptions& options, absl::string_view prefix) {
  return std::any_of(options.filesystem.begin(), options.filesystem.end(),
                     [&](const std::string& option) { return absl::StartsWith(option, prefix); });
}

// A mount that is prepared; what is left is to put it somewhere.
struct Prepared {
  int32_t slot = -1;
  uint16_t flags = 0;  // of kAttachMount
};

class MountCompiler {
 public:
  explicit MountCompiler(Context& context) : context_(context), builder_(context.builder) {}

  absl::Status Run() {
    const std::vector<spec::Mount>& mounts = context_.spec.mounts;
    for (size_t i = 0; i < mounts.size(); ++i) {
      const absl::Status status = One(mounts[i]);
      if (!status.ok()) {
        return absl::Status(status.code(), absl::StrCat("mounts[", i, "] (", mounts[i].destination,
                                                        "): ", status.message()));
      }
    }
    if (!has_dev_) {
      bool readonly = false;
      int32_t slot = -1;
      const absl::Status status = CompileDev(context_, nullptr, &slot, &readonly);
      if (!status.ok()) return status;
    }
    const absl::Status status = CompileOtherDevices(context_);
    if (!status.ok()) return status;
    if (context_.spec.process->terminal) Console();
    for (const int32_t slot : readonly_later_) {
      Op& op = builder_.Child(Code::kSetAttributes);
      op.a = slot;
      op.x = MOUNT_ATTR_RDONLY;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status One(const spec::Mount& mount) {
    const std::string destination = CleanPath(mount.destination);
    if (destination == "/") return absl::InvalidArgumentError("covers the root");
    absl::StatusOr<MountOptions> options = ParseMountOptions(mount.options);
    if (!options.ok()) return options.status();
    const bool bind = options->bind || mount.type == "bind";
    if (destination == "/dev") has_dev_ = true;
    const absl::Status proc = CheckProc(destination, mount, bind);
    if (!proc.ok()) return proc;

    if (context_.inputs.pod_shm && destination == "/dev/shm") {
      return PodShm(destination, *options);
    }
    if (bind) return Bind(destination, mount, *options);
    if (mount.type == "cgroup" || mount.type == "cgroup2") {
      return CompileCgroupMount(context_, destination, mount);
    }
    if (destination == "/dev" && mount.type == "tmpfs") return Dev(mount);
    if (HostView(mount.type)) return BindHostView(destination, mount, *options);
    return Filesystem(destination, mount, *options);
  }

  absl::Status CheckProc(const std::string& destination, const spec::Mount& mount, bool bind) {
    if (!IsBeneath(destination, "/proc")) return absl::OkStatus();
    if (destination == "/proc") {
      if (mount.type == "proc" || (bind && CleanPath(mount.source) == "/proc")) {
        return absl::OkStatus();
      }
      return absl::InvalidArgumentError("only a procfs may be mounted at /proc");
    }
    if (IsOneOf(destination, std::begin(kProcFiles), std::end(kProcFiles))) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError("lies inside /proc");
  }

  // In a user namespace procfs and sysfs can only be made for namespaces that it owns; for the
  // host's own, a clone of what the host sees is the most there is.
  bool HostView(const std::string& type) const {
    if (!context_.user_namespace) return false;
    if (type == "proc") return context_.Use(spec::NamespaceType::kPid) == NamespaceUse::kHost;
    if (type == "sysfs") return context_.Use(spec::NamespaceType::kNetwork) == NamespaceUse::kHost;
    return false;
  }

  absl::Status BindHostView(const std::string& destination, const spec::Mount& mount,
                            MountOptions options) {
    spec::Mount bind = mount;
    bind.source = mount.type == "proc" ? "/proc" : "/sys";
    options.recursive = true;
    options.recursive_set |= options.set;
    return Bind(destination, bind, options, /*own=*/true);
  }

  void Attach(const std::string& destination, const Prepared& prepared) {
    Op& op = builder_.Child(Code::kAttachMount);
    op.a = prepared.slot;
    op.s = builder_.String(destination);
    op.flags = prepared.flags;
    if (IsBeneath(destination, "/proc")) op.flags |= kOnProc;
    // A link in the image at one of these would put the kernel's view of the system somewhere
    // else, and an image's own files in its place.
    if (destination == "/proc" || destination == "/sys" || destination == "/dev") {
      op.flags |= kNoSymlinks;
    }
  }

  static void SetBindOp(const MountOptions& options, Op* op) {
    op->x = options.set;
    op->y = options.clear;
    op->z = options.recursive_set;
    op->w = options.recursive_clear;
    // A clone stays in its source's peer group: without this the container's mounts would show up
    // on the host, and the host's in the container.
    op->propagation = options.propagation != 0 ? options.propagation : MS_PRIVATE | MS_REC;
    if (options.recursive) op->flags |= kRecursive;
  }

  absl::Status PodShm(const std::string& destination, const MountOptions& options) {
    Op& op = builder_.Child(Code::kCloneTree);
    op.b = builder_.NewSlot();
    op.s = builder_.String(stage::kPodShmPath);
    SetBindOp(options, &op);
    Attach(destination, {.slot = op.b, .flags = kDirectory});
    return absl::OkStatus();
  }

  absl::Status Bind(const std::string& destination, const spec::Mount& mount,
                    const MountOptions& options, bool own = false) {
    if (mount.source.empty()) return absl::InvalidArgumentError("a bind mount needs a source");
    std::string source = mount.source;
    if (source[0] != '/') source = absl::StrCat(context_.inputs.bundle_dir, "/", source);
    const std::string clean = CleanPath(source);
    own = own || std::any_of(context_.inputs.own_paths.begin(), context_.inputs.own_paths.end(),
                             [&](const std::string& path) { return IsBeneath(clean, path); });
    Op op{.code = Code::kOpenBind};
    op.b = builder_.NewSlot();
    // Not the clean form: ".." after a link means what the kernel says it means.
    op.s = builder_.String(source);
    SetBindOp(options, &op);
    if (!own) {
      op.flags |= kUser;
      if (context_.inputs.create_missing_bind_sources) op.flags |= kCreateMissing;
    }
    const absl::Status status = IdMap(mount, options, &op);
    if (!status.ok()) return status;
    if (own) {
      builder_.Parent(Code::kOpenBind) = op;
    } else {
      context_.deferred.push_back(op);
    }
    Attach(destination, {.slot = op.b, .flags = kDirectory | kFile});
    return absl::OkStatus();
  }

  absl::Status IdMap(const spec::Mount& mount, const MountOptions& options, Op* op) {
    const bool asked = options.idmap || options.recursive_idmap;
    if (mount.uid_mappings.empty() && mount.gid_mappings.empty() && !asked) return absl::OkStatus();
    if (mount.uid_mappings.empty() != mount.gid_mappings.empty()) {
      return absl::InvalidArgumentError("uidMappings and gidMappings go together");
    }
    const spec::Linux& linux_ = context_.spec.linux_;
    const bool own = context_.user_namespace_slot >= 0 &&
                     spec::SameMappings(mount.uid_mappings, linux_.uid_mappings) &&
                     spec::SameMappings(mount.gid_mappings, linux_.gid_mappings);
    if (mount.uid_mappings.empty() && context_.user_namespace_slot < 0) {
      return absl::InvalidArgumentError("idmap without mappings needs a user namespace");
    }
    if (mount.uid_mappings.empty() || own) {
      op->c = context_.user_namespace_slot;
    } else {
      Op& make = builder_.Parent(Code::kMakeUserNamespace);
      make.b = builder_.NewSlot();
      make.s = builder_.String(spec::MapText(mount.uid_mappings));
      make.t = builder_.String(spec::MapText(mount.gid_mappings));
      op->c = make.b;
    }
    return absl::OkStatus();
  }

  absl::Status Filesystem(const std::string& destination, const spec::Mount& mount,
                          const MountOptions& options) {
    if (mount.type.empty()) return absl::InvalidArgumentError("has no type");
    Op& op = builder_.Child(Code::kNewMount);
    op.b = builder_.NewSlot();
    op.s = builder_.String(mount.type);
    op.t = builder_.List(options.filesystem);
    op.u = builder_.String(mount.source.empty() ? mount.type : mount.source);
    op.x = options.set | options.recursive_set;
    Prepared prepared{.slot = op.b, .flags = kDirectory};
    if (mount.type == "proc" || mount.type == "sysfs") prepared.flags |= kNoSymlinks;
    if (mount.type == "tmpfs") {
      if (!HasOption(options, "mode=")) prepared.flags |= kInheritMode;
      ReadonlyLater(&op, &prepared);
    }
    if (options.propagation != 0 && (options.propagation & MS_PRIVATE) == 0) {
      op.propagation = options.propagation;
    }
    Attach(destination, prepared);
    return absl::OkStatus();
  }

  // Other mounts may need a directory in this one: it becomes read-only when all are there.
  void ReadonlyLater(Op* op, Prepared* prepared) {
    if ((op->x & MOUNT_ATTR_RDONLY) == 0) return;
    op->x &= ~static_cast<uint64_t>(MOUNT_ATTR_RDONLY);
    prepared->flags |= kKeepSlot;
    readonly_later_.push_back(prepared->slot);
  }

  absl::Status Dev(const spec::Mount& mount) {
    int32_t slot = -1;
    bool readonly = false;
    const absl::Status status = CompileDev(context_, &mount, &slot, &readonly);
    if (!status.ok()) return status;
    if (readonly) readonly_later_.push_back(slot);
    return absl::OkStatus();
  }

  void Console() {
    const spec::Process& process = *context_.spec.process;
    Op& op = builder_.Child(Code::kConsole);
    op.flags = kFile;
    op.x = process.console_size.has_value() ? process.console_size->height : 0;
    op.y = process.console_size.has_value() ? process.console_size->width : 0;
    op.z = process.user.uid;
  }

  Context& context_;
  Builder& builder_;
  bool has_dev_ = false;
  std::vector<int32_t> readonly_later_;
};

}  // namespace

std::string CleanPath(absl::string_view path) {
  std::vector<absl::string_view> parts;
  for (const absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") {
      if (!parts.empty()) parts.pop_back();
      continue;
    }
    parts.push_back(part);
  }
  return absl::StrCat("/", absl::StrJoin(parts, "/"));
}

bool IsBeneath(absl::string_view path, absl::string_view base) {
  if (base == "/") return true;
  return absl::StartsWith(path, base) && (path.size() == base.size() || path[base.size()] == '/');
}

absl::Status CompileMounts(Context& context) { return MountCompiler(context).Run(); }

}  // namespace davit::runtime::plan
