#ifndef DAVIT_RUNTIME_SYS_SYSCALLS_H_
#define DAVIT_RUNTIME_SYS_SYSCALLS_H_

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

// System calls that glibc has no wrapper for, or whose wrapper touches libc state that must not be
// touched between clone3 and execve. All return the kernel's value, or -errno; none allocates,
// locks, or caches. Safe in a child that shares or copied a multi-threaded parent's memory. (The
// libc function syscall() itself writes errno, which is the thread's own.)
namespace davit::sys::raw {

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

// struct open_how of linux/openat2.h, and its flags.
struct OpenHow {
  uint64_t flags = 0;
  uint64_t mode = 0;
  uint64_t resolve = 0;
};
inline constexpr uint64_t kResolveNoXdev = 0x01;
inline constexpr uint64_t kResolveNoMagiclinks = 0x02;
inline constexpr uint64_t kResolveNoSymlinks = 0x04;
inline constexpr uint64_t kResolveBeneath = 0x08;
inline constexpr uint64_t kResolveInRoot = 0x10;

struct MountAttr {
  uint64_t set = 0;
  uint64_t clear = 0;
  uint64_t propagation = 0;
  uint64_t userns_fd = 0;
};

template <typename... Args>
inline long Call(long number, Args... args) {
  const long result = syscall(number, args...);
  return result < 0 ? -errno : result;
}

// Calls again while the kernel says EAGAIN: a rename or mount storm elsewhere made a scoped
// resolution fail (man 2 openat2, RESOLVE_IN_ROOT). Bounded.
inline int OpenAt2(int dirfd, const char* path, uint64_t flags, uint64_t mode, uint64_t resolve) {
  OpenHow how;
  how.flags = flags | O_CLOEXEC;
  how.mode = mode;
  how.resolve = resolve;
  long result = 0;
  for (int attempt = 0; attempt < 256; ++attempt) {
    result = Call(SYS_openat2, dirfd, path, &how, sizeof(how));
    if (result != -EAGAIN && result != -EINTR) break;
  }
  return static_cast<int>(result);
}

inline int OpenTree(int dirfd, const char* path, unsigned flags) {
  return static_cast<int>(Call(SYS_open_tree, dirfd, path, flags | O_CLOEXEC));
}

inline int MoveMount(int from, int to_dirfd, const char* to_path, unsigned flags) {
  return static_cast<int>(
      Call(SYS_move_mount, from, "", to_dirfd, to_path, flags | MOVE_MOUNT_F_EMPTY_PATH));
}

inline int FsOpen(const char* type) {
  return static_cast<int>(Call(SYS_fsopen, type, 1u /* FSOPEN_CLOEXEC */));
}
inline int FsConfigString(int fs, const char* key, const char* value) {
  return static_cast<int>(Call(SYS_fsconfig, fs, 1u /* FSCONFIG_SET_STRING */, key, value, 0));
}
inline int FsConfigFlag(int fs, const char* key) {
  return static_cast<int>(
      Call(SYS_fsconfig, fs, 0u /* FSCONFIG_SET_FLAG */, key, static_cast<char*>(nullptr), 0));
}
inline int FsCreate(int fs) {
  return static_cast<int>(Call(SYS_fsconfig, fs, 6u /* FSCONFIG_CMD_CREATE */,
                               static_cast<char*>(nullptr), static_cast<char*>(nullptr), 0));
}
inline int FsMount(int fs, uint64_t attributes) {
  return static_cast<int>(
      Call(SYS_fsmount, fs, 1u /* FSMOUNT_CLOEXEC */, static_cast<unsigned>(attributes)));
}

inline int MountSetattr(int dirfd, const char* path, unsigned flags, const MountAttr& attr) {
  return static_cast<int>(Call(SYS_mount_setattr, dirfd, path, flags, &attr, sizeof(attr)));
}

inline long Clone3(const clone_args& args) { return Call(SYS_clone3, &args, sizeof(args)); }

inline int CloseRange(unsigned first, unsigned last, unsigned flags) {
  return static_cast<int>(Call(SYS_close_range, first, last, flags));
}

inline int PidfdOpen(pid_t pid) { return static_cast<int>(Call(SYS_pidfd_open, pid, 0u)); }
inline int PidfdSendSignal(int pidfd, int signal) {
  return static_cast<int>(
      Call(SYS_pidfd_send_signal, pidfd, signal, static_cast<void*>(nullptr), 0u));
}

inline int PivotRoot(const char* new_root, const char* put_old) {
  return static_cast<int>(Call(SYS_pivot_root, new_root, put_old));
}

// Of the calling thread only, unlike glibc's (which signals every thread).
inline int SetResuid(uid_t r, uid_t e, uid_t s) {
  return static_cast<int>(Call(SYS_setresuid, r, e, s));
}
inline int SetResgid(gid_t r, gid_t e, gid_t s) {
  return static_cast<int>(Call(SYS_setresgid, r, e, s));
}
inline int SetGroups(size_t count, const uint32_t* groups) {
  return static_cast<int>(Call(SYS_setgroups, count, groups));
}

inline int OpenAt(int dirfd, const char* path, int flags, mode_t mode = 0) {
  return static_cast<int>(Call(SYS_openat, dirfd, path, flags | O_CLOEXEC, mode));
}
inline int Close(int fd) { return static_cast<int>(Call(SYS_close, fd)); }
inline long Write(int fd, const void* data, size_t size) {
  long result;
  do {
    result = Call(SYS_write, fd, data, size);
  } while (result == -EINTR);
  return result;
}
inline long Read(int fd, void* data, size_t size) {
  long result;
  do {
    result = Call(SYS_read, fd, data, size);
  } while (result == -EINTR);
  return result;
}
[[noreturn]] inline void Exit(int status) {
  for (;;) syscall(SYS_exit_group, status);
}

}  // namespace davit::sys::raw

#endif  // DAVIT_RUNTIME_SYS_SYSCALLS_H_
