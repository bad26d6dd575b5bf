// Operations of the new process on its mount namespace.

#include <errno.h>
#include <linux/magic.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

using plan::Op;
namespace raw = sys::raw;

namespace {

constexpr unsigned kAtRecursive = 0x8000;

int StatFd(int fd, struct stat* st) {
  return static_cast<int>(raw::Call(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH));
}

int Mount(const char* source, const char* target, const char* type, unsigned long flags,
          const void* data) {
  return static_cast<int>(raw::Call(SYS_mount, source, target, type, flags, data));
}

int AttachAt(int mount, int target) {
  return raw::MoveMount(mount, target, "", MOVE_MOUNT_T_EMPTY_PATH);
}

// Opens the mount's target, making it where nothing is.
int OpenTarget(Stage& stage, const Op& op, bool directory) {
  const char* path = stage.String(op.s);
  const int base = stage.Fd(op.b);
  const uint64_t resolve = (op.flags & plan::kNoSymlinks) != 0 ? raw::kResolveNoSymlinks : 0;
  const int target = OpenBeneath(stage, base, path, O_PATH, resolve);
  if (target != -ENOENT) return target;
  if (directory) {
    const int made = MakeDirectories(stage, base, path, 0755);
    if (made < 0) return made;
    raw::Close(made);
  } else {
    const int made = MakeMissingFile(stage, base, path, 0644);
    if (made < 0) return made;
  }
  return OpenBeneath(stage, base, path, O_PATH, resolve);
}

// Nothing but what the plan says so may cover a part of procfs, also not by way of a link.
int CheckNotProc(int target) {
  struct statfs fs;
  const int result = static_cast<int>(raw::Call(SYS_fstatfs, target, &fs));
  if (result < 0) return result;
  return fs.f_type == PROC_SUPER_MAGIC ? -EPERM : 0;
}

// A tmpfs without a mode of its own looks like what it covers.
int InheritMode(int mount, int target) {
  struct stat st;
  const int result = StatFd(target, &st);
  if (result < 0) return result;
  return static_cast<int>(raw::Call(SYS_fchmodat, mount, ".", st.st_mode & 07777));
}

int Configure(Stage& stage, const Op& op, int fs) {
  int result = 0;
  if (op.u.size != 0) result = raw::FsConfigString(fs, "source", stage.String(op.u));
  plan::ForEachItem(stage.view, op.t, [&](const char* option) {
    if (result < 0) return;
    const char* equals = strchr(option, '=');
    if (equals == nullptr) {
      result = raw::FsConfigFlag(fs, option);
      return;
    }
    const size_t length = static_cast<size_t>(equals - option);
    if (length >= kPathBuffer) {
      result = -ENAMETOOLONG;
      return;
    }
    memcpy(stage.buffer, option, length);
    stage.buffer[length] = '\0';
    result = raw::FsConfigString(fs, stage.buffer, equals + 1);
  });
  return result < 0 ? result : raw::FsCreate(fs);
}

int NewTmpfs(const char* key, const char* value, uint64_t attributes) {
  const int fs = raw::FsOpen("tmpfs");
  if (fs < 0) return fs;
  int result = raw::FsConfigString(fs, "source", "tmpfs");
  if (result == 0) result = raw::FsConfigString(fs, key, value);
  if (result == 0) result = raw::FsCreate(fs);
  if (result == 0) result = raw::FsMount(fs, attributes);
  raw::Close(fs);
  return result;
}

// "lowerdir=l0:l1:...,upperdir=u/NAME,workdir=u/NAME[,volatile]" into the stage's buffer.
class OptionText {
 public:
  explicit OptionText(char* out) : out_(out) { *out_ = '\0'; }
  void Add(const char* text) {
    const size_t length = strlen(text);
    if (used_ + length >= kPathBuffer) {
      overflow_ = true;
      return;
    }
    memcpy(out_ + used_, text, length + 1);
    used_ += length;
  }
  void AddNumber(uint64_t value) {
    char digits[24];
    char* at = digits + sizeof(digits) - 1;
    *at = '\0';
    do {
      *--at = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value > 0);
    Add(at);
  }
  bool overflow() const { return overflow_; }

 private:
  char* out_;
  size_t used_ = 0;
  bool overflow_ = false;
};

int AttachLayer(int base, const char* name, int mount) {
  int result = static_cast<int>(raw::Call(SYS_mkdirat, base, name, 0755));
  if (result == 0) result = raw::MoveMount(mount, base, name, 0);
  return result;
}

// Attaches the layers' mounts under short names in `base`.
int AttachLayers(Stage& stage, const Op& op, int base) {
  char name[32];
  for (uint64_t i = 0; i < op.x; ++i) {
    OptionText text(name);
    text.Add("l");
    text.AddNumber(i);
    const int result = AttachLayer(base, name, stage.Fd(op.a + static_cast<int32_t>(i)));
    if (result < 0) return result;
  }
  return AttachLayer(base, "u", stage.Fd(op.c));
}

int MountBeside(Stage& stage, const Op& op, int base) {
  int result = AttachLayers(stage, op, base);
  if (result < 0) return result;
  if ((result = static_cast<int>(raw::Call(SYS_mkdirat, base, "m", 0755))) < 0) return result;
  OptionText text(stage.buffer);
  for (uint64_t i = 0; i < op.x; ++i) {
    text.Add(i == 0 ? "lowerdir=l" : ":l");
    text.AddNumber(i);
  }
  text.Add(",upperdir=u/");
  text.Add(stage.String(op.s));
  text.Add(",workdir=u/");
  text.Add(stage.String(op.t));
  if ((op.flags & plan::kVolatile) != 0) text.Add(",volatile");
  if (text.overflow()) return -E2BIG;
  if ((result = static_cast<int>(raw::Call(SYS_fchdir, base))) < 0) return result;
  if ((result = Mount("overlay", "m", "overlay", 0, stage.buffer)) < 0) return result;
  return raw::OpenTree(base, "m", OPEN_TREE_CLONE);
}

}  // namespace

int PrivateMounts(Stage&, const Op&) {
  return Mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
}

// The layers are attached in a scratch tmpfs on top of the root, the overlay is made from there,
// and the scratch goes again: overlayfs keeps its own references.
int MountOverlay(Stage& stage, const Op& op) {
  const int base = NewTmpfs("mode", "700", 0);
  if (base < 0) return base;
  int result = raw::MoveMount(base, AT_FDCWD, "/", 0);
  if (result == 0) result = MountBeside(stage, op, base);
  if (result >= 0) stage.fds[op.b] = result;
  // "." is the scratch's root, or still the old one after an early failure.
  const int leave = static_cast<int>(raw::Call(SYS_umount2, ".", MNT_DETACH));
  raw::Close(base);
  raw::Call(SYS_chdir, "/");
  if (result < 0) return result;
  for (uint64_t i = 0; i < op.x; ++i) stage.Drop(op.a + static_cast<int32_t>(i));
  stage.Drop(op.c);
  return leave;
}

// On top of the namespace's own root: a place that exists in every namespace, and the one that
// pivot_root needs no other directory for.
int AttachRootfs(Stage& stage, const Op& op) {
  const int result = raw::MoveMount(stage.Fd(op.a), AT_FDCWD, "/", 0);
  if (result < 0) return result;
  stage.root = stage.Fd(op.a);
  return 0;
}

int HandRootfs(Stage& stage, const Op&) {
  const int clone = raw::OpenTree(stage.root, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | kAtRecursive);
  if (clone < 0) return clone;
  const int result = Tell(stage.report, kTellRootfs, clone);
  raw::Close(clone);
  return result;
}

int NewMount(Stage& stage, const Op& op) {
  const int fs = raw::FsOpen(stage.String(op.s));
  if (fs < 0) return fs;
  int result = Configure(stage, op, fs);
  if (result >= 0) result = raw::FsMount(fs, op.x);
  raw::Close(fs);
  if (result < 0) return result;
  stage.fds[op.b] = result;
  if (op.propagation == 0) return 0;
  raw::MountAttr attr;
  attr.propagation = op.propagation & ~static_cast<uint64_t>(MS_REC);
  return raw::MountSetattr(result, "", AT_EMPTY_PATH, attr);
}

int CloneTree(Stage& stage, const Op& op) {
  const int fd =
      raw::OpenTree(AT_FDCWD, stage.String(op.s),
                    OPEN_TREE_CLONE | ((op.flags & plan::kRecursive) != 0 ? kAtRecursive : 0u));
  if (fd < 0) return fd;
  stage.fds[op.b] = fd;
  return SetBindAttributes(fd, op, -1);
}

int AttachMount(Stage& stage, const Op& op) {
  const int mount = stage.Fd(op.a);
  bool directory = (op.flags & plan::kDirectory) != 0;
  if (directory && (op.flags & plan::kFile) != 0) {
    struct stat st;
    const int result = StatFd(mount, &st);
    if (result < 0) return result;
    directory = S_ISDIR(st.st_mode);
  }
  const int target = OpenTarget(stage, op, directory);
  if (target < 0) return target;
  int result = (op.flags & plan::kOnProc) != 0 ? 0 : CheckNotProc(target);
  if (result == 0 && (op.flags & plan::kInheritMode) != 0) result = InheritMode(mount, target);
  if (result == 0) result = AttachAt(mount, target);
  raw::Close(target);
  if (result < 0) return result;
  if ((op.flags & plan::kKeepSlot) == 0) stage.Drop(op.a);
  return 0;
}

int SetAttributes(Stage& stage, const Op& op) {
  raw::MountAttr attr;
  attr.set = op.x;
  attr.clear = op.y;
  return raw::MountSetattr(stage.Fd(op.a), "",
                           AT_EMPTY_PATH | ((op.flags & plan::kRecursive) != 0 ? kAtRecursive : 0u),
                           attr);
}

// A directory is covered by one empty read-only tmpfs that all masked directories share, anything
// else by the null device that the creator has verified. What is not there needs no mask.
int MaskPath(Stage& stage, const Op& op) {
  const int target = OpenBeneath(stage, -1, stage.String(op.s), O_PATH, 0);
  if (target == -ENOENT || target == -ENOTDIR) return 0;
  if (target < 0) return target;
  struct stat st;
  int result = StatFd(target, &st);
  int* source = nullptr;
  bool attached = false;
  if (result == 0 && S_ISDIR(st.st_mode)) {
    source = &stage.fds[op.b];
    attached = *source >= 0;
    if (!attached) {
      result =
          NewTmpfs("nr_inodes", "1",
                   MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
      if (result >= 0) *source = result;
    }
  } else if (result == 0) {
    source = &stage.fds[op.a];
    attached = stage.null_attached;
    stage.null_attached = true;
  }
  // A clone of the place where it was attached first: detached mounts cannot be cloned everywhere.
  int mount = source == nullptr ? -1 : *source;
  if (result >= 0 && attached) {
    mount = raw::OpenTree(*source, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
    result = mount < 0 ? mount : 0;
  }
  if (result >= 0) result = AttachAt(mount, target);
  if (attached && mount >= 0) raw::Close(mount);
  raw::Close(target);
  return result < 0 ? result : 0;
}

int ReadonlyPath(Stage& stage, const Op& op) {
  const int target = OpenBeneath(stage, -1, stage.String(op.s), O_PATH, 0);
  if (target == -ENOENT || target == -ENOTDIR) return 0;
  if (target < 0) return target;
  int result = raw::OpenTree(target, "", OPEN_TREE_CLONE | AT_EMPTY_PATH | kAtRecursive);
  if (result >= 0) {
    const int mount = result;
    raw::MountAttr attr;
    attr.set = MOUNT_ATTR_RDONLY;
    result = raw::MountSetattr(mount, "", AT_EMPTY_PATH | kAtRecursive, attr);
    if (result == 0) result = AttachAt(mount, target);
    raw::Close(mount);
  }
  raw::Close(target);
  return result;
}

int RootReadonly(Stage& stage, const Op&) {
  raw::MountAttr attr;
  attr.set = MOUNT_ATTR_RDONLY;
  return raw::MountSetattr(stage.root, "", AT_EMPTY_PATH, attr);
}

// With "." for both, the old root ends up on top of the new one, and is what "." then unmounts
// (man 2 pivot_root, NOTES).
int PivotRoot(Stage& stage, const Op&) {
  int result = static_cast<int>(raw::Call(SYS_fchdir, stage.root));
  if (result < 0) return result;
  if ((result = raw::PivotRoot(".", ".")) < 0) return result;
  result = static_cast<int>(raw::Call(SYS_umount2, ".", MNT_DETACH));
  if (result < 0) return result;
  return static_cast<int>(raw::Call(SYS_chdir, "/"));
}

int RootPropagation(Stage&, const Op& op) {
  return Mount(nullptr, "/", nullptr, static_cast<unsigned long>(op.x), nullptr);
}

}  // namespace davit::runtime::stage
