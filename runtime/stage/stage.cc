#include "runtime/stage/stage.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

using plan::Code;
using plan::Op;
namespace raw = sys::raw;

namespace {

constexpr Row kParentRows[] = {
    {Code::kMakeCgroup, MakeCgroup, UndoCgroup},
    {Code::kWriteFile, WriteFile, nullptr},
    {Code::kOpenForWrite, OpenForWrite, nullptr},
    {Code::kAttachDeviceProgram, AttachDeviceProgram, nullptr},
    {Code::kMakeOverlay, MakeOverlay, nullptr},
    {Code::kMakeHostDirectory, MakeHostDirectory, nullptr},
    {Code::kCloneMount, CloneMount, nullptr},
    {Code::kOpenBind, OpenBind, nullptr},
    {Code::kOpenNull, OpenNull, nullptr},
    {Code::kOpenNamespace, OpenNamespace, nullptr},
    {Code::kMakeUserNamespace, MakeUserNamespace, nullptr},
};

constexpr Row kChildRows[] = {
    {Code::kEnterCgroup, EnterCgroup, nullptr},
    {Code::kOomScoreAdj, OomScoreAdj, nullptr},
    {Code::kJoinNamespaces, JoinNamespaces, nullptr},
    {Code::kNewNamespaces, NewNamespaces, nullptr},
    {Code::kBecomeRoot, BecomeRoot, nullptr},
    {Code::kCloneAgain, CloneAgain, nullptr},
    {Code::kLoopbackUp, LoopbackUp, nullptr},
    {Code::kPrivateMounts, PrivateMounts, nullptr},
    {Code::kMountOverlay, MountOverlay, nullptr},
    {Code::kHandRootfs, HandRootfs, nullptr},
    {Code::kAttachRootfs, AttachRootfs, nullptr},
    {Code::kNewMount, NewMount, nullptr},
    {Code::kCloneTree, CloneTree, nullptr},
    {Code::kAttachMount, AttachMount, nullptr},
    {Code::kSetAttributes, SetAttributes, nullptr},
    {Code::kMakeNode, MakeNode, nullptr},
    {Code::kMakeDirectory, MakeDirectory, nullptr},
    {Code::kMakeFile, MakeFile, nullptr},
    {Code::kMakeSymlink, MakeSymlink, nullptr},
    {Code::kConsole, SetUpConsole, nullptr},
    {Code::kMaskPath, MaskPath, nullptr},
    {Code::kReadonlyPath, ReadonlyPath, nullptr},
    {Code::kOpenProc, OpenProc, nullptr},
    {Code::kSysctl, SetSysctl, nullptr},
    {Code::kHostname, SetHostname, nullptr},
    {Code::kDomainname, SetDomainname, nullptr},
    {Code::kRootReadonly, RootReadonly, nullptr},
    {Code::kPivotRoot, PivotRoot, nullptr},
    {Code::kRootPropagation, RootPropagation, nullptr},
    {Code::kKeyring, JoinKeyring, nullptr},
    {Code::kNewSession, NewSession, nullptr},
    {Code::kRlimit, SetRlimit, nullptr},
    {Code::kStdio, SetUpStdio, nullptr},
    {Code::kChangeDirectory, ChangeDirectory, nullptr},
    {Code::kUmask, SetUmask, nullptr},
    {Code::kBounding, DropBounding, nullptr},
    {Code::kIds, SetIds, nullptr},
    {Code::kCapabilities, SetCapabilities, nullptr},
    {Code::kCheckDirectory, CheckDirectory, nullptr},
    {Code::kNoNewPrivileges, NoNewPrivileges, nullptr},
    {Code::kReady, Ready, nullptr},
    {Code::kSeccomp, LoadSeccomp, nullptr},
    {Code::kCloseFds, CloseFds, nullptr},
    {Code::kExec, Exec, nullptr},
};

template <size_t N>
const Row* Find(const Row (&rows)[N], Code code) {
  for (const Row& row : rows) {
    if (row.code == code) return &row;
  }
  return nullptr;
}

// 0, 1 and 2 become the payload's: whatever of ours has one of these numbers (a creator may run
// with them closed) moves out of the way first.
bool VacateStdio(Stage& stage) {
  stage.report = StepAside(stage.report);
  const uint32_t count = stage.view.header().slot_count;
  bool good = stage.report >= 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (stage.fds[i] < 0 || stage.fds[i] > 2) continue;
    stage.fds[i] = StepAside(stage.fds[i]);
    good = good && stage.fds[i] >= 0;
  }
  return good;
}

uint64_t Now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

// One operation, with fault injection, timing and the record of a failure.
int RunOne(Stage& stage, const Row* row, const Op& op, uint32_t number) {
  const plan::Header& header = stage.view.header();
  stage.shared->current_op = static_cast<int32_t>(number);
  int result;
  if (header.fault_op == static_cast<int32_t>(number)) {
    result = -header.fault_errno;
  } else {
    const uint64_t begin = Now();
    result = row->apply(stage, op);
    stage.traces[number].nanoseconds = static_cast<uint32_t>(Now() - begin);
  }
  if (result < 0) {
    stage.shared->error = -result;
    stage.shared->failed_op = static_cast<int32_t>(number);
    return result;
  }
  stage.traces[number].done = 1;
  return 0;
}

// The creator's handlers, and above all what it ignores (SIGPIPE), must not reach the payload.
void ResetSignals() {
  struct {
    void* handler;
    uint64_t flags;
    void* restorer;
    uint64_t mask;
  } action = {};
  for (int signal = 1; signal <= 64; ++signal) {
    raw::Call(SYS_rt_sigaction, signal, &action, static_cast<void*>(nullptr), sizeof(action.mask));
  }
  uint64_t none = 0;
  raw::Call(SYS_rt_sigprocmask, SIG_SETMASK, &none, static_cast<void*>(nullptr), sizeof(none));
}

}  // namespace

void Stage::Drop(int32_t slot) {
  if (slot < 0 || fds[slot] < 0) return;
  raw::Close(fds[slot]);
  fds[slot] = -1;
}

int StepAside(int fd) {
  if (fd < 0 || fd > 2) return fd;
  return static_cast<int>(raw::Call(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 3));
}

bool CloseUnnamed(const Stage& stage) {
  const uint32_t count = stage.view.header().slot_count;
  for (int next = 3;;) {
    int kept = stage.report >= next ? stage.report : -1;
    for (uint32_t i = 0; i < count; ++i) {
      const int fd = stage.fds[i];
      if (fd >= next && (kept < 0 || fd < kept)) kept = fd;
    }
    const unsigned last = kept < 0 ? ~0u : static_cast<unsigned>(kept) - 1;
    if (kept != next && raw::CloseRange(static_cast<unsigned>(next), last, 0) < 0) return false;
    if (kept < 0) return true;
    next = kept + 1;
  }
}

const Row* FindParentRow(Code code) { return Find(kParentRows, code); }
const Row* FindChildRow(Code code) { return Find(kChildRows, code); }

int RunParentOps(Stage& stage, uint32_t from, uint32_t to) {
  const std::span<const Op> ops = stage.view.parent_ops();
  for (uint32_t i = from; i < to; ++i) {
    const int result = RunOne(stage, FindParentRow(ops[i].code), ops[i], i);
    if (result < 0) return result;
    stage.shared->parent_done = i + 1;
  }
  return 0;
}

void RunChild(Stage& stage) {
  // Not to be traced or read through /proc by anyone it meets inside (CVE-2016-9962).
  prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  ResetSignals();
  umask(0);
  if (!VacateStdio(stage) || !CloseUnnamed(stage)) raw::Exit(128);
  const std::span<const Op> ops = stage.view.child_ops();
  const uint32_t first = stage.view.header().parent_count;
  for (uint32_t i = 0; i < ops.size(); ++i) {
    if (RunOne(stage, FindChildRow(ops[i].code), ops[i], first + i) < 0) {
      stage.shared->executing = 0;
      Tell(stage.report, kTellFailed, -1);
      raw::Exit(128);
    }
  }
  raw::Exit(128);
}

int Tell(int socket, char what, int fd) {
  iovec data = {&what, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  const long result = raw::Call(SYS_sendmsg, socket, &message, MSG_NOSIGNAL);
  return result < 0 ? static_cast<int>(result) : 0;
}

}  // namespace davit::runtime::stage
