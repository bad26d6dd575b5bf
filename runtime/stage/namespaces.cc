#include "runtime/stage/namespaces.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

namespace raw = sys::raw;

namespace {

// What the child reports: the step it failed in (a literal, so its address means the same in the
// creator, of which the child is a copy), and why.
struct Outcome {
  const char* step = nullptr;
  int error = 0;
  int done = 0;
};

// A child process of a few system calls. It shares no memory but `Outcome`, and is killed and
// reaped when this goes out of scope.
class Child {
 public:
  ~Child() {
    if (pid_ > 0) {
      raw::Call(SYS_kill, pid_, SIGKILL);
      // No exit signal was asked for, so that the owner's SIGCHLD handling is not disturbed.
      while (raw::Call(SYS_wait4, pid_, static_cast<int*>(nullptr), __WALL,
                       static_cast<void*>(nullptr)) == -EINTR) {
      }
    }
    if (outcome_ != nullptr) munmap(outcome_, sizeof(Outcome));
  }

  // Runs fn(outcome, socket) in the child, which then stays until it is killed.
  template <typename Fn>
  absl::Status Run(uint64_t flags, Fn fn) {
    void* memory =
        mmap(nullptr, sizeof(Outcome), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return sys::ErrnoStatus(errno, "map shared memory");
    outcome_ = new (memory) Outcome();
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets) != 0) {
      return sys::ErrnoStatus(errno, "make a socket pair");
    }
    socket_.reset(sockets[0]);
    sys::UniqueFd theirs(sockets[1]);
    clone_args args = {};
    args.flags = flags;
    pid_ = static_cast<pid_t>(raw::Clone3(args));
    if (pid_ < 0) return sys::ErrnoStatus(-pid_, "clone a process for new namespaces");
    if (pid_ == 0) {
      raw::Close(socket_.get());
      fn(outcome_, theirs.get());
      char byte = 'D';
      raw::Write(theirs.get(), &byte, 1);
      for (;;) raw::Call(SYS_pause);
    }
    return absl::OkStatus();
  }

  absl::Status Continue() {
    const char byte = 'G';
    if (send(socket_.get(), &byte, 1, MSG_NOSIGNAL) != 1) {
      return sys::ErrnoStatus(errno, "continue the process for new namespaces");
    }
    return absl::OkStatus();
  }

  absl::Status Await() {
    char byte;
    if (raw::Read(socket_.get(), &byte, 1) != 1) {
      return absl::InternalError("the process for new namespaces died");
    }
    if (outcome_->step != nullptr) return sys::ErrnoStatus(outcome_->error, outcome_->step);
    return absl::OkStatus();
  }

  absl::StatusOr<sys::UniqueFd> OpenNamespace(const char* name) const {
    return sys::OpenAt(AT_FDCWD, absl::StrCat("/proc/", pid_, "/ns/", name), O_RDONLY);
  }

  absl::Status WriteMaps(const std::string& uid_map, const std::string& gid_map) const {
    const std::string dir = absl::StrCat("/proc/", pid_, "/");
    DAVIT_RETURN_IF_ERROR(sys::WriteExistingAt(AT_FDCWD, dir + "uid_map", uid_map));
    return sys::WriteExistingAt(AT_FDCWD, dir + "gid_map", gid_map);
  }

 private:
  pid_t pid_ = -1;
  Outcome* outcome_ = nullptr;
  sys::UniqueFd socket_;
};

bool Check(Outcome* outcome, const char* step, long result) {
  if (result >= 0) return true;
  outcome->step = step;
  outcome->error = static_cast<int>(-result);
  return false;
}

int NewFilesystem(const char* type, const char* key, const char* value, uint64_t attributes) {
  const int fs = raw::FsOpen(type);
  if (fs < 0) return fs;
  int result = raw::FsConfigString(fs, "source", type);
  if (result == 0 && key != nullptr) result = raw::FsConfigString(fs, key, value);
  if (result == 0 && strcmp(type, "tmpfs") == 0 && strcmp(key, "size") == 0) {
    result = raw::FsConfigString(fs, "mode", "1777");
  }
  if (result == 0) result = raw::FsCreate(fs);
  if (result == 0) result = raw::FsMount(fs, attributes);
  raw::Close(fs);
  return result;
}

bool AttachNew(Outcome* outcome, int root, const char* name, const char* type, const char* key,
               const char* value, uint64_t attributes) {
  const int mount = NewFilesystem(type, key, value, attributes);
  if (!Check(outcome, "mount a file system of the pod", mount)) return false;
  if (!Check(outcome, "make a directory of the pod", raw::Call(SYS_mkdirat, root, name, 0755))) {
    return false;
  }
  const int result = raw::MoveMount(mount, root, name, 0);
  raw::Close(mount);
  return Check(outcome, "attach a file system of the pod", result);
}

// An empty root instead of a copy of the host's mounts: those would keep every one of them busy for
// as long as the pod lives, and cost each container's namespace a copy of the table.
void BuildMounts(Outcome* outcome, const char* shm_size, bool with_proc, bool with_sysfs) {
  constexpr uint64_t kPlain = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
  const int private_result = static_cast<int>(
      raw::Call(SYS_mount, static_cast<char*>(nullptr), "/", static_cast<char*>(nullptr),
                static_cast<unsigned long>(MS_REC | MS_PRIVATE), static_cast<void*>(nullptr)));
  if (!Check(outcome, "make the pod's mounts private", private_result)) return;
  const int root = NewFilesystem("tmpfs", "mode", "755", kPlain);
  if (!Check(outcome, "mount the pod's root", root)) return;
  if (!Check(outcome, "attach the pod's root", raw::MoveMount(root, AT_FDCWD, "/", 0))) return;
  if (!AttachNew(outcome, root, kPodShmPath + 1, "tmpfs", "size", shm_size, kPlain)) return;
  if (with_proc) {
    if (!AttachNew(outcome, root, "proc", "proc", nullptr, nullptr, kPlain)) return;
  }
  if (with_sysfs) {
    if (!AttachNew(outcome, root, "sys", "sysfs", nullptr, nullptr, kPlain)) return;
  }
  if (!Check(outcome, "enter the pod's root", raw::Call(SYS_fchdir, root))) return;
  if (!Check(outcome, "change to the pod's root", raw::PivotRoot(".", "."))) return;
  if (!Check(outcome, "leave the host's root", raw::Call(SYS_umount2, ".", MNT_DETACH))) return;
  raw::MountAttr readonly;
  readonly.set = MOUNT_ATTR_RDONLY;
  Check(outcome, "make the pod's root read-only",
        raw::MountSetattr(root, "", AT_EMPTY_PATH, readonly));
  raw::Close(root);
}

}  // namespace

absl::StatusOr<sys::UniqueFd> CreateUserNamespace(const std::string& uid_map,
                                                  const std::string& gid_map) {
  Child child;
  DAVIT_RETURN_IF_ERROR(child.Run(CLONE_NEWUSER, [](Outcome*, int) {}));
  DAVIT_RETURN_IF_ERROR(child.WriteMaps(uid_map, gid_map));
  return child.OpenNamespace("user");
}

absl::StatusOr<PodNamespaces> CreatePodNamespaces(const PodNamespaceOptions& options) {
  const bool user = !options.uid_map.empty();
  uint64_t others = (options.network ? CLONE_NEWNET : 0) | (options.ipc ? CLONE_NEWIPC : 0) |
                    (options.uts ? CLONE_NEWUTS : 0);
  const std::string shm_size = absl::StrCat(options.shm_size);
  PodNamespaces result;
  Child child;
  const auto build = [&](Outcome* outcome, int socket) {
    if (user) {
      char byte;
      // The ids are nobody's until the maps are written.
      if (!Check(outcome, "wait for the user namespace's maps", raw::Read(socket, &byte, 1)))
        return;
      if (!Check(outcome, "become root", raw::SetResgid(0, 0, 0))) return;
      if (!Check(outcome, "become root", raw::SetResuid(0, 0, 0))) return;
    }
    if (!Check(outcome, "make the pod's namespaces",
               raw::Call(SYS_unshare, static_cast<unsigned long>(others | CLONE_NEWNS)))) {
      return;
    }
    // A sysfs shows a network namespace, and the host's is not ours to mount. Containers on the
    // host's network get a clone of the host's own.
    BuildMounts(outcome, shm_size.c_str(), user, user && options.network);
  };
  // With a user namespace it is the first of a pid namespace as well: procfs may be mounted by the
  // owner of the mounter's pid namespace only.
  DAVIT_RETURN_IF_ERROR(child.Run(user ? CLONE_NEWUSER | CLONE_NEWPID : 0, build));
  if (user) {
    DAVIT_RETURN_IF_ERROR(child.WriteMaps(options.uid_map, options.gid_map));
    DAVIT_ASSIGN_OR_RETURN(result.user, child.OpenNamespace("user"));
    DAVIT_RETURN_IF_ERROR(child.Continue());
  }
  DAVIT_RETURN_IF_ERROR(child.Await());
  DAVIT_ASSIGN_OR_RETURN(result.mount, child.OpenNamespace("mnt"));
  if (options.network) {
    DAVIT_ASSIGN_OR_RETURN(result.network, child.OpenNamespace("net"));
  }
  if (options.ipc) {
    DAVIT_ASSIGN_OR_RETURN(result.ipc, child.OpenNamespace("ipc"));
  }
  if (options.uts) {
    DAVIT_ASSIGN_OR_RETURN(result.uts, child.OpenNamespace("uts"));
  }
  return result;
}

}  // namespace davit::runtime::stage
