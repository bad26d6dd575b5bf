#ifndef DAVIT_RUNTIME_STAGE_STAGE_H_
#define DAVIT_RUNTIME_STAGE_STAGE_H_

#include <linux/filter.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/plan/plan.h"

// The executor's inside, shared by the files of this folder. Everything here runs in processes that
// are copies of a multi-threaded creator, so: no heap, no locks, no exceptions, no libc state;
// functions return 0 (or a descriptor) or -errno.
namespace davit::runtime::stage {

inline constexpr size_t kPathBuffer = 4096;

// Memory that the creator, its helper and the new process share until execve. A creator may have
// been replaced meanwhile by a program of another version, which goes on reading the first five
// fields: a change to them is a new layout.
inline constexpr uint32_t kSharedLayout = 1;
struct Shared {
  int32_t failed_op = -1;  // number of the operation, parent ones first
  int32_t error = 0;
  int32_t current_op = -1;
  int32_t executing = 0;     // set right before execve
  int32_t second_pid = 0;    // of a process born again (Code::kCloneAgain)
  uint32_t parent_done = 0;  // completed parent operations
  int32_t fds[1];            // slot_count descriptors; then, for every operation, one Trace
};

struct Trace {
  uint32_t nanoseconds = 0;
  uint16_t done = 0;
  uint16_t made = 0;  // for undo: how many directories kMakeCgroup made
};

struct Stage {
  plan::View view;
  Shared* shared = nullptr;
  Trace* traces = nullptr;  // in the shared memory
  // Descriptors by slot: the shared ones in the creator and its helper, the process's own copy in
  // the new process.
  int32_t* fds = nullptr;
  // Of the process.
  int report = -1;
  int root = -1;  // the rootfs, once attached
  bool null_attached = false;
  bool directory_retry = false;
  sock_fprog seccomp{};
  const char* const* argv = nullptr;
  const char* const* environment = nullptr;
  char buffer[kPathBuffer];

  const char* String(plan::Ref ref) const { return view.String(ref); }
  int Fd(int32_t slot) const { return slot < 0 ? -1 : fds[slot]; }
  // Closes the slot's descriptor.
  void Drop(int32_t slot);
};

// One row of the executor: what an operation does, and how to take it back (null: there is nothing
// to take back, or it ends with the process).
struct Row {
  plan::Code code;
  int (*apply)(Stage& stage, const plan::Op& op);
  int (*undo)(Stage& stage, const plan::Op& op, const Trace& trace);
};
const Row* FindParentRow(plan::Code code);
const Row* FindChildRow(plan::Code code);

// Executes parent operations from number `from` to before `to`. Records failure, traces, progress.
int RunParentOps(Stage& stage, uint32_t from, uint32_t to);

// Executes the child operations. Ends in the payload or in _exit.
[[noreturn]] void RunChild(Stage& stage);

// What the process tells its creator, over a SOCK_SEQPACKET pair.
inline constexpr char kTellCreated = 'C';
inline constexpr char kTellFailed = 'F';
inline constexpr char kTellConsole = 'T';  // with a descriptor
inline constexpr char kTellRootfs = 'R';   // with a descriptor
int Tell(int socket, char what, int fd);

// Closes every descriptor above 2 that is neither in a slot nor the report's. What a process has
// inherited beyond that is its creator's alone: it must be gone before the process joins a
// container, where it can be looked at, or hangs, and keeps what others want to let go.
bool CloseUnnamed(const Stage& stage);

// Hands descriptors with their slots from one process to another, over such a pair. Of `fds` (one
// for each slot) those that differ from `known` are sent. 0, or -errno.
int SendSlots(int socket, const int32_t* fds, const int32_t* known, uint32_t count);
// Puts what was sent into `fds`, close-on-exec; what is there already stays as it is. Does not
// wait.
int ReceiveSlots(int socket, int32_t* fds, uint32_t count);

// `fd`, or a duplicate of it above 2.
int StepAside(int fd);

// ---- resolving beneath the rootfs, or beneath another directory ("base" -1: the rootfs)

// openat2 with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | `resolve`.
int OpenBeneath(const Stage& stage, int base, const char* path, uint64_t flags, uint64_t resolve);
// Opens (O_PATH) the directory that holds the last component, making missing ones, and points
// `name` at that component.
int OpenParent(Stage& stage, int base, const char* path, const char** name);
// Opens (O_PATH) the directory `path`, making it and its parents.
int MakeDirectories(Stage& stage, int base, const char* path, mode_t mode);
// Makes the empty file `path`, which nothing can be opened at, and its parents. Both this and
// MakeDirectories make what a dangling link on the way leads to, beneath the same base.
int MakeMissingFile(Stage& stage, int base, const char* path, mode_t mode);

// mount_setattr as Code::kOpenBind describes.
int SetBindAttributes(int mount, const plan::Op& op, int idmap);

// ---- operations, by file
int MakeCgroup(Stage&, const plan::Op&);
int UndoCgroup(Stage&, const plan::Op&, const Trace&);
// Removes the directory `path` with what is below it, and `made` - 1 of its parents if they are
// empty. `buffer` has kPathBuffer bytes. What is gone is success.
int RemoveMadeGroup(const char* path, uint32_t made, char* buffer);
int WriteFile(Stage&, const plan::Op&);
int OpenForWrite(Stage&, const plan::Op&);
int AttachDeviceProgram(Stage&, const plan::Op&);
int MakeOverlay(Stage&, const plan::Op&);
int MakeHostDirectory(Stage&, const plan::Op&);
int CloneMount(Stage&, const plan::Op&);
int OpenBind(Stage&, const plan::Op&);
int OpenNull(Stage&, const plan::Op&);
int OpenNamespace(Stage&, const plan::Op&);
int MakeUserNamespace(Stage&, const plan::Op&);

int EnterCgroup(Stage&, const plan::Op&);
int OomScoreAdj(Stage&, const plan::Op&);
int JoinNamespaces(Stage&, const plan::Op&);
int NewNamespaces(Stage&, const plan::Op&);
int BecomeRoot(Stage&, const plan::Op&);
int CloneAgain(Stage&, const plan::Op&);
int LoopbackUp(Stage&, const plan::Op&);
int SetHostname(Stage&, const plan::Op&);
int SetDomainname(Stage&, const plan::Op&);
int OpenProc(Stage&, const plan::Op&);
int SetSysctl(Stage&, const plan::Op&);

int PrivateMounts(Stage&, const plan::Op&);
int MountOverlay(Stage&, const plan::Op&);
int HandRootfs(Stage&, const plan::Op&);
int AttachRootfs(Stage&, const plan::Op&);
int NewMount(Stage&, const plan::Op&);
int CloneTree(Stage&, const plan::Op&);
int AttachMount(Stage&, const plan::Op&);
int SetAttributes(Stage&, const plan::Op&);
int MaskPath(Stage&, const plan::Op&);
int ReadonlyPath(Stage&, const plan::Op&);
int RootReadonly(Stage&, const plan::Op&);
int PivotRoot(Stage&, const plan::Op&);
int RootPropagation(Stage&, const plan::Op&);

int MakeNode(Stage&, const plan::Op&);
int MakeDirectory(Stage&, const plan::Op&);
int MakeFile(Stage&, const plan::Op&);
int MakeSymlink(Stage&, const plan::Op&);
int SetUpConsole(Stage&, const plan::Op&);

int JoinKeyring(Stage&, const plan::Op&);
int NewSession(Stage&, const plan::Op&);
int SetRlimit(Stage&, const plan::Op&);
int SetUpStdio(Stage&, const plan::Op&);
int ChangeDirectory(Stage&, const plan::Op&);
int CheckDirectory(Stage&, const plan::Op&);
int SetUmask(Stage&, const plan::Op&);
int DropBounding(Stage&, const plan::Op&);
int SetIds(Stage&, const plan::Op&);
int SetCapabilities(Stage&, const plan::Op&);
int NoNewPrivileges(Stage&, const plan::Op&);
int Ready(Stage&, const plan::Op&);
int LoadSeccomp(Stage&, const plan::Op&);
int CloseFds(Stage&, const plan::Op&);
int Exec(Stage&, const plan::Op&);

}  // namespace davit::runtime::stage

#endif  // DAVIT_RUNTIME_STAGE_STAGE_H_
