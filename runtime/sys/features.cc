#include "runtime/sys/features.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/landlock.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/sys/clone_vm.h"
#include "runtime/sys/file.h"
#include "runtime/sys/unique_fd.h"

// Newer than the build machine's kernel headers (linux/pidfd.h of 6.15).
#define DAVIT_PIDFD_INFO_EXIT (UINT64_C(1) << 3)

namespace davit::sys {
namespace {

struct PidfdInfo {
  uint64_t mask;
  uint64_t fields[7];  // credentials and ids; the exit code is in the last
};
constexpr unsigned long kPidfdGetInfo = _IOWR(0xFF, 11, PidfdInfo);

UniqueFd OpenRoot() { return UniqueFd(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)); }

UniqueFd FsOpen(const char* type) {
  return UniqueFd(static_cast<int>(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC)));
}

UniqueFd DetachedTmpfs() {
  const UniqueFd context = FsOpen("tmpfs");
  if (!context.ok()) return UniqueFd();
  if (syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return UniqueFd();
  }
  return UniqueFd(static_cast<int>(syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
}

UniqueFd CloneMount(int fd) {
  return UniqueFd(static_cast<int>(
      syscall(SYS_open_tree, fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)));
}

bool SetMountAttributes(int mount, mount_attr attributes) {
  return syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH, &attributes, sizeof attributes) == 0;
}

bool IdMap(int mount, int user_namespace) {
  mount_attr attributes{};
  attributes.attr_set = MOUNT_ATTR_IDMAP;
  attributes.userns_fd = static_cast<uint64_t>(user_namespace);
  return SetMountAttributes(mount, attributes);
}

void ProbeMounts(KernelFeatures& features) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
  const UniqueFd root = OpenRoot();
  features.openat2 =
      UniqueFd(static_cast<int>(syscall(SYS_openat2, root.get(), ".", &how, sizeof how))).ok();

  const UniqueFd tmpfs = DetachedTmpfs();
  features.new_mount_api = tmpfs.ok();
  if (tmpfs.ok()) {
    mount_attr read_only{};
    read_only.attr_set = MOUNT_ATTR_NOSUID;
    features.mount_setattr = SetMountAttributes(tmpfs.get(), read_only);
    features.clone_detached_mount = CloneMount(tmpfs.get()).ok();
    const UniqueFd inner = DetachedTmpfs();
    if (inner.ok() && mkdirat(tmpfs.get(), "inner", 0700) == 0) {
      features.move_into_detached = syscall(SYS_move_mount, inner.get(), "", tmpfs.get(), "inner",
                                            MOVE_MOUNT_F_EMPTY_PATH) == 0;
    }
  }

  const UniqueFd overlay = FsOpen("overlay");
  features.overlay = overlay.ok();
  if (overlay.ok()) {
    // Before 6.5 a file system without the new interface took any key here and looked at it only
    // when it was made: the key says something only where nonsense is refused.
    const bool checks_keys =
        syscall(SYS_fsconfig, overlay.get(), FSCONFIG_SET_STRING, "no_such_option", "1", 0) != 0;
    features.overlay_lowerdir_append =
        checks_keys &&
        syscall(SYS_fsconfig, overlay.get(), FSCONFIG_SET_STRING, "lowerdir+", "/", 0) == 0;
    features.overlay_layer_fds = syscall(SYS_fsconfig, overlay.get(), FSCONFIG_SET_FD, "lowerdir+",
                                         nullptr, root.get()) == 0;
  }
  features.cgroup_v2 = FsOpen("cgroup2").ok();
}

// A child on a stack of its own that shares our memory, as a thread does: nothing is copied. It may
// only make raw system calls.
struct ProbeChild {
  UniqueFd pidfd;
  pid_t pid = -1;
};

class ProbeStack {
 public:
  ProbeStack()
      : base_(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK,
                   -1, 0)) {}
  ~ProbeStack() {
    if (ok()) munmap(base_, kSize);
  }
  ProbeStack(const ProbeStack&) = delete;
  ProbeStack& operator=(const ProbeStack&) = delete;
  bool ok() const { return base_ != MAP_FAILED; }
  // For clone_args.
  uint64_t base() const { return reinterpret_cast<uint64_t>(base_); }
  static constexpr uint64_t size() { return kSize; }

 private:
  static constexpr size_t kSize = 64 * 1024;
  void* const base_;
};

ProbeChild CloneChild(const ProbeStack& stack, uint64_t flags, int (*function)(void*),
                      void* argument) {
  ProbeChild child;
  if (!stack.ok()) return child;
  int pidfd = -1;
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_PIDFD | flags;
  arguments.pidfd = reinterpret_cast<uint64_t>(&pidfd);
  arguments.exit_signal = SIGCHLD;
  arguments.stack = stack.base();
  arguments.stack_size = ProbeStack::size();
  // Handlers would run on shared memory.
  sigset_t all;
  sigset_t old;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &old);
  child.pid = static_cast<pid_t>(CloneVm(&arguments, function, argument));
  pthread_sigmask(SIG_SETMASK, &old, nullptr);
  if (child.pid > 0) child.pidfd = UniqueFd(pidfd);
  return child;
}

void Reap(pid_t pid) {
  while (waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

DAVIT_NO_SANITIZE int ExitAtOnce(void*) {
  syscall(SYS_exit, 7);
  return 0;
}

void ProbeProcesses(KernelFeatures& features) {
  // An unusable descriptor lets a kernel that knows the flag fail on it (EBADF), before any child.
  clone_args arguments{};
  arguments.flags = CLONE_INTO_CGROUP;
  arguments.exit_signal = SIGCHLD;
  arguments.cgroup = static_cast<uint64_t>(INT32_MAX);
  const long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
  if (pid == 0) _exit(0);
  if (pid > 0) Reap(static_cast<pid_t>(pid));
  features.clone_into_cgroup = pid < 0 && errno == EBADF;

  const ProbeStack stack;
  const ProbeChild child = CloneChild(stack, CLONE_VFORK, ExitAtOnce, nullptr);
  if (child.pid > 0) {
    Reap(child.pid);
    PidfdInfo info{};
    info.mask = DAVIT_PIDFD_INFO_EXIT;
    features.pidfd_exit_info = ioctl(child.pidfd.get(), kPidfdGetInfo, &info) == 0 &&
                               (info.mask & DAVIT_PIDFD_INFO_EXIT) != 0;
  }
}

struct UserNamespaceChild {
  int wait_fd;
  pid_t parent;
};

// Keeps the new user namespace alive until the parent closes its end of the pipe.
DAVIT_NO_SANITIZE int WaitForEnd(void* opaque) {
  const UserNamespaceChild* argument = static_cast<UserNamespaceChild*>(opaque);
  // It shares the table of descriptors, so the pipe's other end never closes for it. Without this
  // it would outlive a parent that is killed meanwhile, and keep what that had locked for ever.
  syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
  char byte;
  if (syscall(SYS_getppid) == argument->parent) syscall(SYS_read, argument->wait_fd, &byte, 1);
  syscall(SYS_exit, 0);
  return 0;
}

bool WriteMap(pid_t pid, const char* file) {
  const std::string path = absl::StrCat("/proc/", pid, "/", file);
  return WriteExistingAt(AT_FDCWD, path, "0 100000 65536").ok();
}

// A user namespace of its own that lives until this goes out of scope.
class ScratchUserNamespace {
 public:
  ScratchUserNamespace() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) return;
    read_end_.reset(ends[0]);
    write_end_.reset(ends[1]);
    argument_ = {read_end_.get(), getpid()};
    child_ = CloneChild(stack_, CLONE_NEWUSER | CLONE_FILES, WaitForEnd, &argument_);
    if (child_.pid <= 0) return;
    if (!WriteMap(child_.pid, "uid_map") || !WriteMap(child_.pid, "gid_map")) return;
    works_ = true;
    fd_.reset(open(absl::StrCat("/proc/", child_.pid, "/ns/user").c_str(), O_RDONLY | O_CLOEXEC));
  }
  ~ScratchUserNamespace() {
    if (child_.pid <= 0) return;
    (void)!write(write_end_.get(), "x", 1);
    Reap(child_.pid);
  }
  ScratchUserNamespace(const ScratchUserNamespace&) = delete;
  ScratchUserNamespace& operator=(const ScratchUserNamespace&) = delete;

  bool works() const { return works_; }
  int fd() const { return fd_.get(); }

 private:
  UniqueFd read_end_;
  UniqueFd write_end_;
  const ProbeStack stack_;
  UserNamespaceChild argument_{-1, -1};
  ProbeChild child_;
  bool works_ = false;
  UniqueFd fd_;
};

void ProbeUserNamespaces(KernelFeatures& features) {
  const ScratchUserNamespace scratch;
  features.user_namespaces = scratch.works();
  if (scratch.fd() < 0) return;
  const UniqueFd root = OpenRoot();
  const UniqueFd root_clone = CloneMount(root.get());
  features.idmapped_mounts = root_clone.ok() && IdMap(root_clone.get(), scratch.fd());
  const UniqueFd tmpfs = DetachedTmpfs();
  features.idmapped_tmpfs = tmpfs.ok() && IdMap(tmpfs.get(), scratch.fd());
}

// cgroup.kill is in every cgroup v2 directory but the root, and there may be no such directory yet:
// the one feature that is told by version.
bool AtLeast(const KernelFeatures& features, int major, int minor) {
  return features.major > major || (features.major == major && features.minor >= minor);
}

bool FilterFlagKnown(unsigned flags) {
  // A null program is only looked at once the flags were accepted.
  return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, nullptr) != 0 && errno == EFAULT;
}

bool DeviceProgramLoads() {
  // "return 1"
  const bpf_insn instructions[] = {{BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1},
                                   {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uint64_t>(instructions);
  attributes.insn_cnt = 2;
  attributes.license = reinterpret_cast<uint64_t>("Apache-2.0");
  return UniqueFd(static_cast<int>(syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes)))
      .ok();
}

void ProbeConfinement(KernelFeatures& features) {
  features.seccomp_filter = FilterFlagKnown(0);
  features.seccomp_notify = FilterFlagKnown(SECCOMP_FILTER_FLAG_NEW_LISTENER);
  features.seccomp_wait_killable =
      FilterFlagKnown(SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV);
  const long abi =
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  features.landlock_abi = abi > 0 ? static_cast<int>(abi) : 0;
  const auto apparmor = ReadFileAt(AT_FDCWD, "/sys/module/apparmor/parameters/enabled", 16);
  features.apparmor = apparmor.ok() && absl::StartsWith(*apparmor, "Y");
  features.selinux = access("/sys/fs/selinux/enforce", F_OK) == 0;
  features.cgroup_device_bpf = DeviceProgramLoads();
}

}  // namespace

KernelFeatures ProbeKernel() {
  KernelFeatures features;
  utsname name{};
  if (uname(&name) == 0) {
    features.release = name.release;
    (void)sscanf(name.release, "%d.%d", &features.major, &features.minor);
  }
  ProbeMounts(features);
  ProbeProcesses(features);
  ProbeUserNamespaces(features);
  features.cgroup_namespaces = access("/proc/self/ns/cgroup", F_OK) == 0;
  features.time_namespaces = access("/proc/self/ns/time", F_OK) == 0;
  features.cgroup_kill = features.cgroup_v2 && AtLeast(features, 5, 14);
  features.psi = ReadFileAt(AT_FDCWD, "/proc/pressure/memory", 4096).ok();
  ProbeConfinement(features);
  return features;
}

absl::Status CheckUserNamespaces(const KernelFeatures& features) {
  const char* missing = nullptr;
  if (!features.overlay_lowerdir_append) missing = "overlayfs with layers given one by one (6.7)";
  if (!features.idmapped_tmpfs) missing = "id-mapped mounts of tmpfs (6.3)";
  if (!features.user_namespaces) missing = "user namespaces (see sysctl user.max_user_namespaces)";
  if (missing == nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "user namespaces for pods are not possible: Linux ", features.release, " lacks ", missing));
}

bool CanIdMap(const std::string& path) {
  const UniqueFd directory(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!directory.ok()) return false;
  const UniqueFd clone = CloneMount(directory.get());
  if (!clone.ok()) return false;
  const ScratchUserNamespace scratch;
  return scratch.fd() >= 0 && IdMap(clone.get(), scratch.fd());
}

absl::Status CheckKernelFloor(const KernelFeatures& features) {
  if (!AtLeast(features, 6, 1)) {
    return absl::FailedPreconditionError(
        absl::StrCat("this kernel is Linux ", features.release,
                     "; davit needs 6.1 or newer. Install a newer kernel (Debian 12's is enough)"));
  }
  const std::pair<bool, const char*> needed[] = {
      {features.openat2, "openat2"},
      {features.new_mount_api, "fsopen and fsmount"},
      {features.mount_setattr, "mount_setattr"},
      {features.clone_into_cgroup, "clone3"},
  };
  for (const auto& [present, what] : needed) {
    if (!present) {
      return absl::FailedPreconditionError(
          absl::StrCat("Linux ", features.release, " here does not allow ", what,
                       ", which davit cannot work without; run davitd as root and outside of a "
                       "container that filters system calls"));
    }
  }
  return absl::OkStatus();
}

std::vector<std::pair<std::string, std::string>> ListFeatures(const KernelFeatures& features) {
  auto flag = [](bool present) { return std::string(present ? "yes" : "no"); };
  return {
      {"openat2", flag(features.openat2)},
      {"mount_api", flag(features.new_mount_api)},
      {"mount_setattr", flag(features.mount_setattr)},
      {"overlay", flag(features.overlay)},
      {"overlay_lowerdir_append", flag(features.overlay_lowerdir_append)},
      {"overlay_layer_fds", flag(features.overlay_layer_fds)},
      {"clone_detached_mount", flag(features.clone_detached_mount)},
      {"move_into_detached", flag(features.move_into_detached)},
      {"idmapped_mounts", flag(features.idmapped_mounts)},
      {"idmapped_tmpfs", flag(features.idmapped_tmpfs)},
      {"clone_into_cgroup", flag(features.clone_into_cgroup)},
      {"pidfd_exit_info", flag(features.pidfd_exit_info)},
      {"user_namespaces", flag(features.user_namespaces)},
      {"cgroup_namespaces", flag(features.cgroup_namespaces)},
      {"time_namespaces", flag(features.time_namespaces)},
      {"cgroup_v2", flag(features.cgroup_v2)},
      {"cgroup_kill", flag(features.cgroup_kill)},
      {"cgroup_device_bpf", flag(features.cgroup_device_bpf)},
      {"psi", flag(features.psi)},
      {"seccomp", flag(features.seccomp_filter)},
      {"seccomp_notify", flag(features.seccomp_notify)},
      {"seccomp_wait_killable", flag(features.seccomp_wait_killable)},
      {"landlock_abi", absl::StrCat(features.landlock_abi)},
      {"apparmor", flag(features.apparmor)},
      {"selinux", flag(features.selinux)},
  };
}

std::string Describe(const KernelFeatures& features) {
  std::vector<std::string> present;
  std::vector<std::string> missing;
  for (const auto& [name, value] : ListFeatures(features)) {
    if (value == "yes") {
      present.push_back(name);
    } else if (value == "no" || value == "0") {
      missing.push_back(name);
    } else {
      present.push_back(absl::StrCat(name, "=", value));
    }
  }
  std::string text = absl::StrCat("Linux ", features.release, ": ", absl::StrJoin(present, " "));
  if (!missing.empty()) absl::StrAppend(&text, "; without ", absl::StrJoin(missing, " "));
  return text;
}

}  // namespace davit::sys
