// Namespaces, and what lives in them: names, loopback, sysctls.

#include <errno.h>
#include <linux/if.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

using plan::Op;
namespace raw = sys::raw;

int JoinNamespaces(Stage& stage, const Op& op) {
  return static_cast<int>(raw::Call(SYS_setns, stage.Fd(op.a), static_cast<int>(op.x)));
}

int NewNamespaces(Stage&, const Op& op) {
  return static_cast<int>(raw::Call(SYS_unshare, static_cast<unsigned long>(op.x)));
}

// The host's root has no id in the user namespace just entered: what it made would belong to
// nobody.
int BecomeRoot(Stage&, const Op&) {
  const int result = raw::SetResgid(0, 0, 0);
  return result < 0 ? result : raw::SetResuid(0, 0, 0);
}

int CloneAgain(Stage& stage, const Op& op) {
  clone_args args = {};
  args.flags = op.x | CLONE_PARENT;  // the creator's child, and with its exit signal
  const long pid = raw::Clone3(args);
  if (pid < 0) return static_cast<int>(pid);
  if (pid == 0) return 0;
  stage.shared->second_pid = static_cast<int32_t>(pid);
  raw::Exit(0);
}

int LoopbackUp(Stage&, const Op&) {
  const int fd = static_cast<int>(raw::Call(SYS_socket, AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (fd < 0) return fd;
  ifreq request;
  memset(&request, 0, sizeof(request));
  memcpy(request.ifr_name, "lo", 3);
  long result = raw::Call(SYS_ioctl, fd, SIOCGIFFLAGS, &request);
  if (result == 0) {
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    result = raw::Call(SYS_ioctl, fd, SIOCSIFFLAGS, &request);
  }
  raw::Close(fd);
  return static_cast<int>(result);
}

int SetHostname(Stage& stage, const Op& op) {
  return static_cast<int>(
      raw::Call(SYS_sethostname, stage.String(op.s), static_cast<int>(op.s.size)));
}

int SetDomainname(Stage& stage, const Op& op) {
  return static_cast<int>(
      raw::Call(SYS_setdomainname, stage.String(op.s), static_cast<int>(op.s.size)));
}

// A procfs that no path leads to: nothing that the image or a shared volume brings can stand
// between a write and the kernel (CVE-2025-52881).
int OpenProc(Stage& stage, const Op& op) {
  const int fs = raw::FsOpen("proc");
  if (fs < 0) return fs;
  int result = raw::FsCreate(fs);
  if (result == 0) {
    result = raw::FsMount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  }
  raw::Close(fs);
  if (result < 0) return result;
  stage.fds[op.b] = result;
  return 0;
}

int SetSysctl(Stage& stage, const Op& op) {
  static const char kPrefix[] = "sys/";
  const size_t prefix = sizeof(kPrefix) - 1;
  if (op.s.size + prefix >= kPathBuffer) return -ENAMETOOLONG;
  memcpy(stage.buffer, kPrefix, prefix);
  memcpy(stage.buffer + prefix, stage.String(op.s), op.s.size + 1);
  const int fd = raw::OpenAt2(stage.Fd(op.a), stage.buffer, O_WRONLY, 0,
                              raw::kResolveBeneath | raw::kResolveNoXdev |
                                  raw::kResolveNoMagiclinks | raw::kResolveNoSymlinks);
  if (fd < 0) return fd;
  const long result = raw::Write(fd, stage.String(op.t), op.t.size);
  raw::Close(fd);
  return result < 0 ? static_cast<int>(result) : 0;
}

}  // namespace davit::runtime::stage
