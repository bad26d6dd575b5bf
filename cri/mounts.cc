#include "cri/mounts.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "cri/user_namespace.h"
#include "proto/api.pb.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::cri {
namespace {

namespace v1 = ::runtime::v1;
using runtime::spec::Mount;

constexpr size_t kMaxMounts = 4096;
constexpr size_t kMaxMountinfo = 64 << 20;

std::vector<Mount> DefaultMounts(const MountInputs& in) {
  const char* const sys_access = in.privileged ? "rw" : "ro";
  std::vector<Mount> mounts = {
      {"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}, {}, {}},
      {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}, {}, {}},
      {"/dev/pts",
       "devpts",
       "devpts",
       {"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"},
       {},
       {}},
      {"/dev/mqueue", "mqueue", "mqueue", {"nosuid", "noexec", "nodev"}, {}, {}},
      {"/sys", "sysfs", "sysfs", {"nosuid", "noexec", "nodev", sys_access}, {}, {}},
      {"/sys/fs/cgroup",
       "cgroup",
       "cgroup",
       {"nosuid", "noexec", "nodev", "relatime", sys_access},
       {},
       {}},
  };
  if (in.host_ipc) {
    mounts.push_back({"/dev/shm", "bind", "/dev/shm", {"rbind", "rprivate"}, {}, {}});
  } else {
    mounts.push_back({"/dev/shm",
                      "tmpfs",
                      "shm",
                      {"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"},
                      {},
                      {}});
  }
  const char* const file_access = in.readonly_rootfs ? "ro" : "rw";
  for (const auto& [destination, source] :
       {std::pair<const char*, const std::string&>{"/etc/hostname", in.hostname_path},
        {"/etc/hosts", in.hosts_path},
        {"/etc/resolv.conf", in.resolv_conf_path}}) {
    if (source.empty()) continue;
    mounts.push_back({destination, "bind", source, {"rbind", "rprivate", file_access}, {}, {}});
    if (in.user_namespace) mounts.back().options.push_back("idmap");
  }
  for (const std::string& volume : in.volumes) {
    mounts.push_back(
        {CleanPath(volume), "tmpfs", "tmpfs", {"nosuid", "nodev", "mode=755"}, {}, {}});
  }
  return mounts;
}

absl::Status CheckKind(const v1::Mount& mount) {
  if (mount.has_image() && !mount.image().image().empty()) {
    return absl::UnimplementedError("image volumes are not implemented");
  }
  if (!mount.mount_options().empty()) {
    return absl::UnimplementedError("mount_options are not implemented");
  }
  return absl::OkStatus();
}

absl::Status CheckPaths(const v1::Mount& mount) {
  for (const std::string* path : {&mount.container_path(), &mount.host_path()}) {
    if (!absl::StartsWith(*path, "/")) {
      return absl::InvalidArgumentError(
          absl::StrCat(path == &mount.host_path() ? "host" : "container", "_path \"",
                       absl::string_view(*path).substr(0, 256), "\" is not absolute"));
    }
    if (path->size() >= PATH_MAX || path->find('\0') != std::string::npos) {
      return absl::InvalidArgumentError("a path is too long or contains a NUL byte");
    }
  }
  if (CleanPath(mount.container_path()) == "/") {
    return absl::InvalidArgumentError("the root cannot be mounted over");
  }
  return absl::OkStatus();
}

absl::Status CheckRecursiveReadOnly(const v1::Mount& mount, bool supported) {
  if (!mount.recursive_read_only()) return absl::OkStatus();
  if (!mount.readonly()) {
    return absl::InvalidArgumentError("recursive_read_only needs readonly");
  }
  if (mount.propagation() != v1::PROPAGATION_PRIVATE) {
    return absl::InvalidArgumentError("recursive_read_only needs private propagation");
  }
  if (!supported) {
    return absl::FailedPreconditionError(
        "RROUnsupported: this kernel cannot make mounts read-only recursively");
  }
  return absl::OkStatus();
}

// What a mount of the container can receive or send must come from a mount that does.
absl::Status CheckSource(const std::string& host_path, Propagation least) {
  char resolved[PATH_MAX];
  if (::realpath(host_path.c_str(), resolved) == nullptr) {
    const int error = errno;
    return absl::InvalidArgumentError(sys::ErrnoStatus(error, host_path).message());
  }
  DAVIT_ASSIGN_OR_RETURN(const std::string mountinfo,
                         sys::ReadFileAt(AT_FDCWD, "/proc/thread-self/mountinfo", kMaxMountinfo));
  const Propagation found = PropagationOf(mountinfo, resolved);
  if (found >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(host_path, " is on a mount that is not ",
                   least == Propagation::kShared ? "shared" : "shared or slave",
                   ", so the asked for propagation cannot work; see mount(8), --make-rshared"));
}

absl::Status TranslateIdMappings(const v1::Mount& mount, Mount* out) {
  if (mount.uidmappings().empty() != mount.gidmappings().empty()) {
    return absl::InvalidArgumentError("uidMappings and gidMappings go together");
  }
  if (mount.uidmappings().empty()) return absl::OkStatus();
  DAVIT_ASSIGN_OR_RETURN(out->uid_mappings, TranslateMappings(mount.uidmappings()));
  DAVIT_ASSIGN_OR_RETURN(out->gid_mappings, TranslateMappings(mount.gidmappings()));
  out->options.push_back("idmap");
  return absl::OkStatus();
}

absl::StatusOr<Mount> Translate(const v1::Mount& mount, const MountInputs& inputs) {
  DAVIT_RETURN_IF_ERROR(CheckKind(mount));
  DAVIT_RETURN_IF_ERROR(CheckPaths(mount));
  DAVIT_RETURN_IF_ERROR(CheckRecursiveReadOnly(mount, inputs.recursive_read_only));
  Mount out;
  out.destination = CleanPath(mount.container_path());
  out.type = "bind";
  out.source = mount.host_path();
  out.options = {"rbind"};
  switch (mount.propagation()) {
    case v1::PROPAGATION_PRIVATE:
      out.options.push_back("rprivate");
      break;
    case v1::PROPAGATION_HOST_TO_CONTAINER:
      DAVIT_RETURN_IF_ERROR(CheckSource(mount.host_path(), Propagation::kSlave));
      out.options.push_back("rslave");
      break;
    case v1::PROPAGATION_BIDIRECTIONAL:
      DAVIT_RETURN_IF_ERROR(CheckSource(mount.host_path(), Propagation::kShared));
      out.options.push_back("rshared");
      break;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("unknown propagation ", static_cast<int>(mount.propagation())));
  }
  // Not "rro" alone: a reader of config.json who does not know it would see a writable mount.
  out.options.push_back(mount.readonly() ? "ro" : "rw");
  if (mount.recursive_read_only()) out.options.push_back("rro");
  DAVIT_RETURN_IF_ERROR(TranslateIdMappings(mount, &out));
  return out;
}

size_t Depth(const std::string& path) {
  return static_cast<size_t>(std::count(path.begin(), path.end(), '/'));
}

// \040 for a space and so on.
std::string Unescape(absl::string_view field) {
  std::string out;
  for (size_t i = 0; i < field.size(); ++i) {
    if (field[i] == '\\' && i + 3 < field.size()) {
      out.push_back(static_cast<char>((field[i + 1] - '0') * 64 + (field[i + 2] - '0') * 8 +
                                      (field[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(field[i]);
    }
  }
  return out;
}

bool IsInside(absl::string_view path, absl::string_view directory) {
  return directory == "/" || path == directory ||
         (absl::StartsWith(path, directory) && path[directory.size()] == '/');
}

}  // namespace

std::string CleanPath(absl::string_view path) {
  std::vector<absl::string_view> clean;
  for (const absl::string_view part : absl::StrSplit(path, '/', absl::SkipEmpty())) {
    if (part == ".") continue;
    if (part != "..") {
      clean.push_back(part);
    } else if (!clean.empty()) {
      clean.pop_back();
    }
  }
  return absl::StrCat("/", absl::StrJoin(clean, "/"));
}

Propagation PropagationOf(absl::string_view mountinfo, absl::string_view path) {
  size_t longest = 0;
  Propagation result = Propagation::kPrivate;
  for (const absl::string_view line : absl::StrSplit(mountinfo, '\n', absl::SkipEmpty())) {
    const std::vector<absl::string_view> fields = absl::StrSplit(line, ' ');
    if (fields.size() < 7) continue;
    const std::string point = Unescape(fields[4]);
    // Of mounts at one place the last is on top.
    if (!IsInside(path, point) || point.size() < longest) continue;
    longest = point.size();
    result = Propagation::kPrivate;
    for (size_t i = 6; i < fields.size() && fields[i] != "-"; ++i) {
      if (absl::StartsWith(fields[i], "shared:")) result = Propagation::kShared;
      if (absl::StartsWith(fields[i], "master:") && result == Propagation::kPrivate) {
        result = Propagation::kSlave;
      }
    }
  }
  return result;
}

absl::StatusOr<std::vector<Mount>> BuildMounts(
    const google::protobuf::RepeatedPtrField<v1::Mount>& mounts, const MountInputs& inputs) {
  if (mounts.size() > static_cast<int>(kMaxMounts)) {
    return absl::InvalidArgumentError(absl::StrCat("more than ", kMaxMounts, " mounts"));
  }
  std::vector<Mount> own;
  std::set<std::string> destinations;
  for (int i = 0; i < mounts.size(); ++i) {
    absl::StatusOr<Mount> mount = Translate(mounts[i], inputs);
    if (!mount.ok() && absl::StartsWith(mount.status().message(), "RROUnsupported")) {
      return mount.status();  // the kubelet looks at how the message begins
    }
    if (!mount.ok()) {
      return sys::Annotate(mount.status(),
                           absl::StrCat("mounts[", i, "] (", mounts[i].container_path(), ")"));
    }
    if (!destinations.insert(mount->destination).second) {
      return absl::InvalidArgumentError(absl::StrCat("two mounts at ", mount->destination));
    }
    own.push_back(*std::move(mount));
  }
  std::vector<Mount> all;
  for (Mount& mount : DefaultMounts(inputs)) {
    if (destinations.count(mount.destination) > 0) continue;
    if (destinations.count("/dev") > 0 && absl::StartsWith(mount.destination, "/dev/")) continue;
    all.push_back(std::move(mount));
  }
  for (Mount& mount : own) all.push_back(std::move(mount));
  std::stable_sort(all.begin(), all.end(), [](const Mount& a, const Mount& b) {
    return Depth(a.destination) < Depth(b.destination);
  });
  return all;
}

}  // namespace davit::cri
