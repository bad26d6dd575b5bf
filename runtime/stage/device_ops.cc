// Device nodes, links and the console.

#include <errno.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

namespace davit::runtime::stage {

using plan::Op;
namespace raw = sys::raw;

namespace {

// The directory that holds `path`'s last component. A bare name in a directory of ours needs no
// resolving.
int Parent(Stage& stage, const Op& op, const char** name, bool* borrowed) {
  const char* path = stage.String(op.s);
  const int base = stage.Fd(op.a);
  *borrowed = base >= 0 && strchr(path, '/') == nullptr;
  if (*borrowed) {
    *name = path;
    return base;
  }
  return OpenParent(stage, base, path, name);
}

int SameNode(int parent, const char* name, const Op& op) {
  struct stat st;
  const int result =
      static_cast<int>(raw::Call(SYS_newfstatat, parent, name, &st, AT_SYMLINK_NOFOLLOW));
  if (result < 0) return result;
  const bool same = (st.st_mode & S_IFMT) == (op.x & S_IFMT) &&
                    (S_ISFIFO(st.st_mode) || st.st_rdev == static_cast<dev_t>(op.y));
  return same ? 0 : -EEXIST;
}

int NodeIn(int parent, const char* name, const Op& op) {
  int result = static_cast<int>(
      raw::Call(SYS_mknodat, parent, name, static_cast<mode_t>(op.x), static_cast<unsigned>(op.y)));
  if (result == -EEXIST) return SameNode(parent, name, op);
  if (result < 0 || (op.z == 0 && op.w == 0)) return result;
  return static_cast<int>(raw::Call(SYS_fchownat, parent, name, static_cast<uid_t>(op.z),
                                    static_cast<gid_t>(op.w), AT_SYMLINK_NOFOLLOW));
}

// ptmx of the container's own devpts: a file system that anything may be mounted over is believed
// only after a look (CVE-2025-52565).
int OpenPtmx(const Stage& stage) {
  const int fd = OpenBeneath(stage, -1, "dev/pts/ptmx", O_RDWR | O_NOCTTY, raw::kResolveNoSymlinks);
  if (fd < 0) return fd;
  struct statfs fs;
  struct stat st;
  int result = static_cast<int>(raw::Call(SYS_fstatfs, fd, &fs));
  if (result == 0) result = static_cast<int>(raw::Call(SYS_fstat, fd, &st));
  if (result == 0 && (fs.f_type != DEVPTS_SUPER_MAGIC || !S_ISCHR(st.st_mode) ||
                      st.st_rdev != makedev(5, 2) || st.st_ino != 2)) {
    result = -ENODEV;
  }
  if (result == 0) return fd;
  raw::Close(fd);
  return result;
}

// Bound at /dev/console, where programs expect the terminal that they were started with.
int BindConsole(Stage& stage, int slave) {
  const int tree = raw::OpenTree(slave, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  if (tree < 0) return tree;
  const char* name = nullptr;
  int result = OpenParent(stage, -1, "dev/console", &name);
  if (result >= 0) {
    const int parent = result;
    result = raw::OpenAt(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY, 0600);
    if (result >= 0) raw::Close(result);
    if (result >= 0 || result == -EEXIST) {
      result =
          raw::OpenAt2(parent, name, O_PATH, 0, raw::kResolveBeneath | raw::kResolveNoSymlinks);
    }
    raw::Close(parent);
  }
  if (result >= 0) {
    const int target = result;
    result = raw::MoveMount(tree, target, "", MOVE_MOUNT_T_EMPTY_PATH);
    raw::Close(target);
  }
  raw::Close(tree);
  return result;
}

int Become(int fd) {
  for (int number = 0; number < 3; ++number) {
    if (fd == number) continue;
    const long result = raw::Call(SYS_dup3, fd, number, 0);
    if (result < 0) return static_cast<int>(result);
  }
  return 0;
}

int SlaveSetUp(Stage& stage, const Op& op, int slave) {
  if (op.x != 0 || op.y != 0) {
    winsize size = {};
    size.ws_row = static_cast<unsigned short>(op.x);
    size.ws_col = static_cast<unsigned short>(op.y);
    const long result = raw::Call(SYS_ioctl, slave, TIOCSWINSZ, &size);
    if (result < 0) return static_cast<int>(result);
  }
  // The user it runs as must be able to open its own terminal again.
  const long owned = raw::Call(SYS_fchown, slave, static_cast<uid_t>(op.z), static_cast<gid_t>(-1));
  if (owned < 0) return static_cast<int>(owned);
  if ((op.flags & plan::kFile) != 0) {
    const int result = BindConsole(stage, slave);
    if (result < 0) return result;
  }
  return Become(slave);
}

}  // namespace

int MakeNode(Stage& stage, const Op& op) {
  const char* name = nullptr;
  bool borrowed = false;
  const int parent = Parent(stage, op, &name, &borrowed);
  if (parent < 0) return parent;
  const int result = NodeIn(parent, name, op);
  if (!borrowed) raw::Close(parent);
  return result;
}

int MakeDirectory(Stage& stage, const Op& op) {
  const int base = stage.Fd(op.a);
  const char* path = stage.String(op.s);
  if (base >= 0 && strchr(path, '/') == nullptr) {
    const int result =
        static_cast<int>(raw::Call(SYS_mkdirat, base, path, static_cast<mode_t>(op.x)));
    return result == -EEXIST ? 0 : result;
  }
  const int fd = MakeDirectories(stage, base, path, static_cast<mode_t>(op.x));
  if (fd < 0) return fd;
  raw::Close(fd);
  return 0;
}

int MakeFile(Stage& stage, const Op& op) {
  const char* name = nullptr;
  bool borrowed = false;
  const int parent = Parent(stage, op, &name, &borrowed);
  if (parent < 0) return parent;
  const int file = raw::OpenAt(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY,
                               static_cast<mode_t>(op.x));
  if (!borrowed) raw::Close(parent);
  if (file >= 0) raw::Close(file);
  return file == -EEXIST || file >= 0 ? 0 : file;
}

int MakeSymlink(Stage& stage, const Op& op) {
  const char* name = nullptr;
  bool borrowed = false;
  const int parent = Parent(stage, op, &name, &borrowed);
  if (parent < 0) return parent;
  const int result = static_cast<int>(raw::Call(SYS_symlinkat, stage.String(op.t), parent, name));
  if (!borrowed) raw::Close(parent);
  return result == -EEXIST ? 0 : result;
}

int SetUpConsole(Stage& stage, const Op& op) {
  if (stage.root < 0) {
    // An exec session has just entered the container: its root is the rootfs.
    stage.root = raw::OpenAt(AT_FDCWD, "/", O_PATH | O_DIRECTORY);
    if (stage.root < 0) return stage.root;
  }
  const int master = OpenPtmx(stage);
  if (master < 0) return master;
  int unlock = 0;
  long result = raw::Call(SYS_ioctl, master, TIOCSPTLCK, &unlock);
  if (result == 0) {
    result = raw::Call(SYS_ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  }
  if (result >= 0) {
    const int slave = static_cast<int>(result);
    result = SlaveSetUp(stage, op, slave);
    if (slave > 2) raw::Close(slave);
  }
  if (result >= 0) result = Tell(stage.report, kTellConsole, master);
  raw::Close(master);
  return result < 0 ? static_cast<int>(result) : 0;
}

}  // namespace davit::runtime::stage
