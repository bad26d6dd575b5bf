// What the process is when its payload begins: limits, identity, confinement.

#include <errno.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <termios.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

using plan::Op;
namespace raw = sys::raw;

namespace {

// Whoever the payload runs as must be able to open its own pipes (/dev/stdout) again. Only pipes:
// they were made for it; a file or a terminal has an owner already.
int OwnPipe(int fd, uid_t owner) {
  struct stat st;
  const int result = static_cast<int>(raw::Call(SYS_fstat, fd, &st));
  if (result < 0) return result;
  if (!S_ISFIFO(st.st_mode) || st.st_uid == owner) return 0;
  return static_cast<int>(raw::Call(SYS_fchown, fd, owner, static_cast<gid_t>(-1)));
}

int Prlimit(int resource, const rlimit64* wanted, rlimit64* old) {
  return static_cast<int>(raw::Call(SYS_prlimit64, 0, resource, wanted, old));
}

int Execute(Stage& stage, const char* path) {
  stage.shared->executing = 1;
  const long result = raw::Call(SYS_execve, path, stage.argv, stage.environment);
  stage.shared->executing = 0;
  return static_cast<int>(result);
}

// As execvp: the first that can be executed; permission problems are told if nothing else is found.
int SearchAndExecute(Stage& stage, const char* name, const char* path) {
  int worst = -ENOENT;
  const size_t length = strlen(name);
  while (true) {
    const char* end = strchrnul(path, ':');
    const size_t directory = static_cast<size_t>(end - path);
    // An empty entry would be the working directory: a payload's own files are not commands.
    if (directory != 0 && directory + length + 2 <= kPathBuffer) {
      memcpy(stage.buffer, path, directory);
      stage.buffer[directory] = '/';
      memcpy(stage.buffer + directory + 1, name, length + 1);
      const int result = Execute(stage, stage.buffer);
      if (result == -EACCES) {
        worst = result;
      } else if (result != -ENOENT && result != -ENOTDIR) {
        return result;
      }
    }
    if (*end == '\0') return worst;
    path = end + 1;
  }
}

}  // namespace

int OomScoreAdj(Stage& stage, const Op& op) {
  const int fd = raw::OpenAt(AT_FDCWD, "/proc/self/oom_score_adj", O_WRONLY);
  if (fd < 0) return fd;
  const long result = raw::Write(fd, stage.String(op.s), op.s.size);
  raw::Close(fd);
  return result < 0 ? static_cast<int>(result) : 0;
}

int SetUpStdio(Stage& stage, const Op& op) {
  int fds[3] = {stage.Fd(op.a), stage.Fd(op.b), stage.Fd(op.c)};
  int null = -1;
  for (int& fd : fds) {
    if (fd < 0 && null < 0) {
      null = StepAside(raw::OpenAt(AT_FDCWD, "/dev/null", O_RDWR));
      if (null < 0) return null;
    }
    if (fd < 0) fd = null;
  }
  for (int number = 0; number < 3; ++number) {
    if (op.x != UINT64_MAX && fds[number] != null) {
      const int result = OwnPipe(fds[number], static_cast<uid_t>(op.x));
      if (result < 0) return result;
    }
    const long result = raw::Call(SYS_dup3, fds[number], number, 0);
    if (result < 0) return static_cast<int>(result);
  }
  return 0;
}

int JoinKeyring(Stage& stage, const Op& op) {
  const long result = raw::Call(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, stage.String(op.s));
  // A kernel without keyrings has nothing to keep apart.
  if (result == -ENOSYS) return 0;
  return result < 0 ? static_cast<int>(result) : 0;
}

int NewSession(Stage& stage, const Op&) {
  const long result = raw::Call(SYS_setsid);
  if (result < 0) return static_cast<int>(result);
  if (stage.view.header().terminal == 0) return 0;
  return static_cast<int>(raw::Call(SYS_ioctl, 0, TIOCSCTTY, 0));
}

int SetRlimit(Stage&, const Op& op) {
  const int resource = static_cast<int>(op.x);
  rlimit64 wanted = {op.y, op.z};
  if ((op.flags & plan::kRaiseOnly) != 0) {
    rlimit64 now;
    const int result = Prlimit(resource, nullptr, &now);
    if (result < 0 || op.z <= now.rlim_max) return result;
    wanted.rlim_cur = now.rlim_cur;
  }
  return Prlimit(resource, &wanted, nullptr);
}

// The capabilities of root reach more than the user's rights do; where they do not (a network file
// system that squashes root), the user tries it in CheckDirectory.
int ChangeDirectory(Stage& stage, const Op& op) {
  const int result = static_cast<int>(raw::Call(SYS_chdir, stage.String(op.s)));
  stage.directory_retry = result == -EACCES;
  return stage.directory_retry ? 0 : result;
}

// A working directory outside of the root (/proc/self/fd/N of something leaked) reads as
// "(unreachable)" (CVE-2024-21626).
int CheckDirectory(Stage& stage, const Op& op) {
  if (stage.directory_retry) {
    const int result = static_cast<int>(raw::Call(SYS_chdir, stage.String(op.s)));
    if (result < 0) return result;
  }
  const long length = raw::Call(SYS_getcwd, stage.buffer, kPathBuffer);
  if (length < 0) return static_cast<int>(length);
  return stage.buffer[0] == '/' ? 0 : -ENOENT;
}

int SetUmask(Stage&, const Op& op) {
  umask(static_cast<mode_t>(op.x));
  return 0;
}

int DropBounding(Stage&, const Op& op) {
  for (unsigned long capability = 0; capability < 64; ++capability) {
    if ((op.x >> capability & 1) != 0) continue;
    const long result = raw::Call(SYS_prctl, PR_CAPBSET_DROP, capability, 0ul, 0ul, 0ul);
    if (result == -EINVAL) break;  // beyond the kernel's last
    if (result < 0) return static_cast<int>(result);
  }
  return 0;
}

int SetIds(Stage& stage, const Op& op) {
  const auto* groups = reinterpret_cast<const uint32_t*>(stage.String(op.s));
  int result = raw::SetGroups(op.s.size / sizeof(uint32_t), groups);
  if (result < 0) return result;
  const gid_t gid = static_cast<gid_t>(op.y);
  if ((result = raw::SetResgid(gid, gid, gid)) < 0) return result;
  // The permitted set survives the change of user until SetCapabilities says what is left of it.
  const long kept = raw::Call(SYS_prctl, PR_SET_KEEPCAPS, 1ul, 0ul, 0ul, 0ul);
  if (kept < 0) return static_cast<int>(kept);
  const uid_t uid = static_cast<uid_t>(op.x);
  return raw::SetResuid(uid, uid, uid);
}

int SetCapabilities(Stage&, const Op& op) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  for (int word = 0; word < 2; ++word) {
    data[word].effective = static_cast<uint32_t>(op.x >> (32 * word));
    data[word].permitted = static_cast<uint32_t>(op.y >> (32 * word));
    data[word].inheritable = static_cast<uint32_t>(op.z >> (32 * word));
  }
  long result = raw::Call(SYS_capset, &header, data);
  if (result < 0) return static_cast<int>(result);
  result = raw::Call(SYS_prctl, PR_SET_KEEPCAPS, 0ul, 0ul, 0ul, 0ul);
  if (result < 0) return static_cast<int>(result);
  result = raw::Call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0ul, 0ul, 0ul);
  for (unsigned long capability = 0; result >= 0 && capability < 64; ++capability) {
    if ((op.w >> capability & 1) == 0) continue;
    result = raw::Call(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0ul, 0ul);
  }
  return result < 0 ? static_cast<int>(result) : 0;
}

int NoNewPrivileges(Stage&, const Op&) {
  return static_cast<int>(raw::Call(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1ul, 0ul, 0ul, 0ul));
}

int Ready(Stage& stage, const Op&) {
  const int result = Tell(stage.report, kTellCreated, -1);
  if (result < 0) return result;
  char byte;
  // The end of the stream: the creator is gone, or has given up. Nobody is left to be told.
  if (raw::Read(stage.report, &byte, 1) != 1) raw::Exit(128);
  return 0;
}

int LoadSeccomp(Stage& stage, const Op& op) {
  return static_cast<int>(
      raw::Call(SYS_seccomp, SECCOMP_SET_MODE_FILTER, static_cast<unsigned>(op.x), &stage.seccomp));
}

int CloseFds(Stage& stage, const Op&) {
  if (stage.report != 3) {
    const long moved = raw::Call(SYS_dup3, stage.report, 3, O_CLOEXEC);
    if (moved < 0) return static_cast<int>(moved);
    stage.report = 3;
  }
  stage.root = -1;
  return raw::CloseRange(4, ~0u, 0);
}

int Exec(Stage& stage, const Op& op) {
  const char* name = stage.argv[0];
  if (strchr(name, '/') != nullptr) return Execute(stage, name);
  return SearchAndExecute(stage, name, stage.String(op.u));
}

}  // namespace davit::runtime::stage
