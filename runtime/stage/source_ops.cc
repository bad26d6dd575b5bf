// Operations of the creator that open what the container is made of.

#include <errno.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

using plan::Op;
namespace raw = sys::raw;

namespace {

constexpr unsigned kAtRecursive = 0x8000;
// More layers than this no kernel accepts (OVL_MAX_STACK).
constexpr size_t kMaxLayers = 500;
// An errno that no other system call here gives: Failure::ToStatus explains it.
constexpr int kCannotIdMap = -EMEDIUMTYPE;

int Stat(const char* path, struct stat* st) {
  return static_cast<int>(raw::Call(SYS_newfstatat, AT_FDCWD, path, st, 0));
}

int MakeHostDir(const char* path, mode_t mode) {
  const int result = static_cast<int>(raw::Call(SYS_mkdirat, AT_FDCWD, path, mode));
  return result == -EEXIST ? 0 : result;
}

// The upper directory is what the payload sees as "/": it looks like the topmost layer's.
int MakeUpper(const char* lower, const char* upper, const Op& op) {
  int result = static_cast<int>(raw::Call(SYS_mkdirat, AT_FDCWD, upper, 0755));
  if (result == -EEXIST) return 0;
  if (result < 0) return result;
  struct stat st;
  if ((result = Stat(lower, &st)) < 0) return result;
  const bool mapped = op.x != 0 || op.y != 0;
  result = static_cast<int>(raw::Call(SYS_fchownat, AT_FDCWD, upper,
                                      mapped ? static_cast<uid_t>(op.x) : st.st_uid,
                                      mapped ? static_cast<gid_t>(op.y) : st.st_gid, 0));
  if (result < 0) return result;
  return static_cast<int>(raw::Call(SYS_fchmodat, AT_FDCWD, upper, st.st_mode & 07777));
}

struct Layers {
  int fds[kMaxLayers];
  size_t count = 0;
  ~Layers() {
    for (size_t i = 0; i < count; ++i) raw::Close(fds[i]);
  }
};

// "/proc/self/fd/N"
void FdPath(int fd, char* out) {
  static const char kPrefix[] = "/proc/self/fd/";
  memcpy(out, kPrefix, sizeof(kPrefix) - 1);
  char digits[12];
  int count = 0;
  do {
    digits[count++] = static_cast<char>('0' + fd % 10);
    fd /= 10;
  } while (fd > 0);
  out += sizeof(kPrefix) - 1;
  while (count > 0) *out++ = digits[--count];
  *out = '\0';
}

int AddLayer(int fs, const char* path, int user_namespace, Layers* layers) {
  if (user_namespace < 0) return raw::FsConfigString(fs, "lowerdir+", path);
  if (layers->count == kMaxLayers) return -E2BIG;
  const int tree = raw::OpenTree(AT_FDCWD, path, OPEN_TREE_CLONE);
  if (tree < 0) return tree;
  layers->fds[layers->count++] = tree;
  raw::MountAttr attr;
  attr.set = MOUNT_ATTR_IDMAP;
  attr.userns_fd = static_cast<uint64_t>(user_namespace);
  const int result = raw::MountSetattr(tree, "", AT_EMPTY_PATH, attr);
  if (result < 0) return result == -EINVAL ? kCannotIdMap : result;
  char name[32];
  FdPath(tree, name);
  return raw::FsConfigString(fs, "lowerdir+", name);
}

int ConfigureOverlay(Stage& stage, const Op& op, int fs, Layers* layers) {
  int result = 0;
  plan::ForEachItem(stage.view, op.s, [&](const char* path) {
    if (result == 0) result = AddLayer(fs, path, stage.Fd(op.c), layers);
  });
  if (result < 0) return result;
  if ((result = raw::FsConfigString(fs, "source", "overlay")) < 0) return result;
  if ((result = raw::FsConfigString(fs, "upperdir", stage.String(op.t))) < 0) return result;
  if ((result = raw::FsConfigString(fs, "workdir", stage.String(op.u))) < 0) return result;
  if ((op.flags & plan::kVolatile) != 0) {
    if ((result = raw::FsConfigFlag(fs, "volatile")) < 0) return result;
  }
  return raw::FsCreate(fs);
}

// Missing parents too, 0755, as peers make bind sources.
int MakeSource(Stage& stage, const char* path) {
  const size_t length = strlen(path);
  if (length >= kPathBuffer) return -ENAMETOOLONG;
  memcpy(stage.buffer, path, length + 1);
  for (size_t i = 1; i <= length; ++i) {
    if (stage.buffer[i] != '/' && stage.buffer[i] != '\0') continue;
    const char saved = stage.buffer[i];
    stage.buffer[i] = '\0';
    const int result = MakeHostDir(stage.buffer, 0755);
    stage.buffer[i] = saved;
    if (result < 0) return result;
  }
  return 0;
}

int WriteMap(const char* dir, const char* file, const char* text, size_t size) {
  char path[64];
  const size_t length = strlen(dir);
  memcpy(path, dir, length);
  memcpy(path + length, file, strlen(file) + 1);
  const int fd = raw::OpenAt(AT_FDCWD, path, O_WRONLY);
  if (fd < 0) return fd;
  const long result = raw::Write(fd, text, size);
  raw::Close(fd);
  return result < 0 ? static_cast<int>(result) : 0;
}

// "/proc/PID/"
void ProcDir(pid_t pid, char* out) {
  FdPath(pid, out);
  // "/proc/self/fd/N": keep the number only.
  const char* number = strrchr(out, '/') + 1;
  const size_t length = strlen(number);
  memmove(out + 6, number, length + 1);
  out[6 + length] = '/';
  out[7 + length] = '\0';
}

}  // namespace

int SetBindAttributes(int mount, const Op& op, int idmap) {
  const uint64_t type = op.propagation & ~static_cast<uint64_t>(MS_REC);
  const bool deep = (op.propagation & MS_REC) != 0;
  const bool recursive = (op.flags & plan::kRecursive) != 0;
  raw::MountAttr tree;
  tree.set = op.z;
  tree.clear = op.w;
  // What lies beneath a mount whose own propagation alone was asked for must still not reach back
  // to the host.
  tree.propagation = deep ? type : uint64_t{MS_SLAVE};
  if (tree.set != 0 || tree.clear != 0 || (recursive && tree.propagation != 0)) {
    const int result = raw::MountSetattr(mount, "", AT_EMPTY_PATH | kAtRecursive, tree);
    if (result < 0) return result;
  }
  raw::MountAttr top;
  top.set = op.x;
  top.clear = op.y;
  if (!recursive || !deep) top.propagation = type;
  if (top.set != 0 || top.clear != 0 || top.propagation != 0) {
    const int result = raw::MountSetattr(mount, "", AT_EMPTY_PATH, top);
    if (result < 0) return result;
  }
  if (idmap < 0) return 0;
  // By itself, so that its failure says what failed.
  raw::MountAttr mapped;
  mapped.set = MOUNT_ATTR_IDMAP;
  mapped.userns_fd = static_cast<uint64_t>(idmap);
  const int result = raw::MountSetattr(mount, "", AT_EMPTY_PATH, mapped);
  return result == -EINVAL ? kCannotIdMap : result;
}

int MakeOverlay(Stage& stage, const Op& op) {
  int result = MakeUpper(stage.String(op.s), stage.String(op.t), op);
  if (result < 0) return result;
  if ((result = MakeHostDir(stage.String(op.u), 0755)) < 0) return result;
  const int fs = raw::FsOpen("overlay");
  if (fs < 0) return fs;
  Layers layers;
  result = ConfigureOverlay(stage, op, fs, &layers);
  if (result >= 0) result = raw::FsMount(fs, 0);
  raw::Close(fs);
  if (result < 0) return result;
  stage.fds[op.b] = result;
  return 0;
}

int MakeHostDirectory(Stage& stage, const Op& op) {
  return MakeHostDir(stage.String(op.s), static_cast<mode_t>(op.x));
}

int CloneMount(Stage& stage, const Op& op) {
  const int fd = raw::OpenTree(stage.Fd(op.a), "", OPEN_TREE_CLONE | AT_EMPTY_PATH | kAtRecursive);
  if (fd < 0) return fd;
  stage.fds[op.b] = fd;
  return 0;
}

int OpenBind(Stage& stage, const Op& op) {
  const char* path = stage.String(op.s);
  const unsigned flags = OPEN_TREE_CLONE | ((op.flags & plan::kRecursive) != 0 ? kAtRecursive : 0u);
  int fd = raw::OpenTree(AT_FDCWD, path, flags);
  if (fd == -ENOENT && (op.flags & plan::kCreateMissing) != 0) {
    const int result = MakeSource(stage, path);
    if (result < 0) return result;
    fd = raw::OpenTree(AT_FDCWD, path, flags);
  }
  if (fd < 0) return fd;
  int result = SetBindAttributes(fd, op, stage.Fd(op.c));
  if (result == 0 && (op.flags & plan::kDirectory) != 0) {
    struct stat st;
    result = static_cast<int>(raw::Call(SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH));
    if (result == 0 && !S_ISDIR(st.st_mode)) result = -ENOTDIR;
  }
  if (result < 0) {
    raw::Close(fd);
    return result;
  }
  stage.fds[op.b] = fd;
  return 0;
}

int OpenNull(Stage& stage, const Op& op) {
  const int fd = raw::OpenTree(AT_FDCWD, "/dev/null", OPEN_TREE_CLONE | AT_SYMLINK_NOFOLLOW);
  if (fd < 0) return fd;
  struct stat st;
  int result = static_cast<int>(raw::Call(SYS_newfstatat, fd, "", &st, AT_EMPTY_PATH));
  // The device number alone is not enough: a pipe's or a regular file's st_rdev means nothing.
  if (result == 0 && (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))) result = -ENODEV;
  raw::MountAttr attr;
  attr.set = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC;
  attr.propagation = MS_PRIVATE;
  if (result == 0) result = raw::MountSetattr(fd, "", AT_EMPTY_PATH, attr);
  if (result < 0) {
    raw::Close(fd);
    return result;
  }
  stage.fds[op.b] = fd;
  return 0;
}

int OpenNamespace(Stage& stage, const Op& op) {
  const int fd = raw::OpenAt(AT_FDCWD, stage.String(op.s), O_RDONLY | O_NONBLOCK);
  if (fd < 0) return fd;
  const long type = raw::Call(SYS_ioctl, fd, NS_GET_NSTYPE, 0);
  if (type < 0 || static_cast<uint64_t>(type) != op.x) {
    raw::Close(fd);
    return -EINVAL;  // not a namespace, or of another kind
  }
  stage.fds[op.b] = fd;
  return 0;
}

int MakeUserNamespace(Stage& stage, const Op& op) {
  // A process must hold the namespace while its maps are written. No signal at its end: the
  // creator's SIGCHLD handling knows nothing of it.
  clone_args args = {};
  args.flags = CLONE_NEWUSER;
  const long pid = raw::Clone3(args);
  if (pid < 0) return static_cast<int>(pid);
  if (pid == 0) {
    for (;;) raw::Call(SYS_pause);
  }
  char dir[64];
  ProcDir(static_cast<pid_t>(pid), dir);
  int result = WriteMap(dir, "uid_map", stage.String(op.s), op.s.size);
  if (result == 0) result = WriteMap(dir, "gid_map", stage.String(op.t), op.t.size);
  if (result == 0) {
    char path[80];
    const size_t length = strlen(dir);
    memcpy(path, dir, length);
    memcpy(path + length, "ns/user", 8);
    result = raw::OpenAt(AT_FDCWD, path, O_RDONLY);
  }
  raw::Call(SYS_kill, pid, SIGKILL);
  raw::Call(SYS_wait4, pid, static_cast<int*>(nullptr), __WALL, static_cast<void*>(nullptr));
  if (result < 0) return result;
  stage.fds[op.b] = result;
  return 0;
}

}  // namespace davit::runtime::stage
