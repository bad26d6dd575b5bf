#include <errno.h>
#include <linux/bpf.h>
#include <sched.h>
#include <string.h>

#include "runtime/stage/stage.h"
#include "runtime/sys/syscalls.h"

namespace davit::runtime::stage {

using plan::Op;
namespace raw = sys::raw;

namespace {

// Bits of cgroup::WriteFlags, which a plan carries in Op::x.
constexpr uint64_t kIgnoreMissing = 1;
constexpr uint64_t kIgnoreInvalid = 2;
constexpr uint64_t kIgnoreUnsupported = 4;
constexpr uint64_t kIgnoreBusy = 8;

bool Ignored(uint64_t flags, int error) {
  switch (error) {
    case ENOENT:
      return (flags & kIgnoreMissing) != 0;
    case EINVAL:
      return (flags & kIgnoreInvalid) != 0;
    case EOPNOTSUPP:
    case EPERM:
    case EACCES:
      return (flags & kIgnoreUnsupported) != 0;
    case EBUSY:
      return (flags & kIgnoreBusy) != 0;
    default:
      return false;
  }
}

int Mkdir(const char* path, mode_t mode) {
  return static_cast<int>(raw::Call(SYS_mkdirat, AT_FDCWD, path, mode));
}

struct DirectoryEntry {
  uint64_t inode;
  int64_t offset;
  unsigned short length;
  unsigned char type;
  char name[1];
};
constexpr unsigned char kTypeDirectory = 4;  // DT_DIR
constexpr int kMaxGroupDepth = 64;

int RemoveGroup(int parent, const char* name, int depth);

// The groups that a payload with a writable cgroup mount has left below its own.
void RemoveGroupsIn(int directory, int depth) {
  alignas(8) char buffer[1024];
  long size;
  while ((size = raw::Call(SYS_getdents64, directory, buffer, sizeof(buffer))) > 0) {
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const DirectoryEntry*>(buffer + at);
      at += entry->length;
      const bool self = strcmp(entry->name, ".") == 0 || strcmp(entry->name, "..") == 0;
      if (entry->type == kTypeDirectory && !self) RemoveGroup(directory, entry->name, depth + 1);
    }
  }
}

int RemoveGroup(int parent, const char* name, int depth) {
  int result = -EBUSY;
  // A task that has been reaped may still be on its way out of a v1 group.
  for (int attempt = 0; attempt < 32 && result == -EBUSY; ++attempt) {
    if (attempt != 0) raw::Call(SYS_sched_yield);
    result = static_cast<int>(raw::Call(SYS_unlinkat, parent, name, AT_REMOVEDIR));
    if (result != -EBUSY || attempt != 0 || depth == kMaxGroupDepth) continue;
    const int directory = raw::OpenAt(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (directory < 0) continue;
    RemoveGroupsIn(directory, depth);
    raw::Close(directory);
  }
  return result == -ENOENT ? 0 : result;
}

// Makes the leaf, and missing parents; counts what it made.
int MakeGroup(Stage& stage, const char* path, mode_t mode, bool parents, uint16_t* made) {
  int result = Mkdir(path, mode);
  if (result == 0) *made = 1;
  if (result != -ENOENT || !parents) return result;
  const size_t length = strlen(path);
  if (length >= kPathBuffer) return -ENAMETOOLONG;
  memcpy(stage.buffer, path, length + 1);
  for (size_t i = 1; i < length; ++i) {
    if (stage.buffer[i] != '/') continue;
    stage.buffer[i] = '\0';
    result = Mkdir(stage.buffer, mode);
    stage.buffer[i] = '/';
    if (result == 0) ++*made;
    if (result < 0 && result != -EEXIST) return result;
  }
  result = Mkdir(path, mode);
  if (result == 0) ++*made;
  return result;
}

}  // namespace

int MakeCgroup(Stage& stage, const Op& op) {
  const char* path = stage.String(op.s);
  Trace& trace = stage.traces[stage.shared->current_op];
  if ((op.flags & plan::kExisting) == 0) {
    const int result = MakeGroup(stage, path, static_cast<mode_t>(op.x),
                                 (op.flags & plan::kExistingParent) == 0, &trace.made);
    if (result < 0 && !(result == -EEXIST && (op.flags & plan::kMayExist) != 0)) {
      // Parents made on the way to a failure are taken back at once: the operation is not done.
      if (trace.made != 0) UndoCgroup(stage, op, trace);
      return result;
    }
  }
  const int fd = raw::OpenAt(AT_FDCWD, path, O_RDONLY | O_DIRECTORY);
  if (fd < 0) {
    if (trace.made != 0) UndoCgroup(stage, op, trace);
    return fd;
  }
  stage.fds[op.b] = fd;
  return 0;
}

int UndoCgroup(Stage& stage, const Op& op, const Trace& trace) {
  return RemoveMadeGroup(stage.String(op.s), trace.made, stage.buffer);
}

int RemoveMadeGroup(const char* path, uint32_t made, char* buffer) {
  if (made == 0) return 0;
  const size_t length = strlen(path);
  if (length >= kPathBuffer) return -ENAMETOOLONG;
  memcpy(buffer, path, length + 1);
  for (uint32_t i = 0; i < made; ++i) {
    // Below its own group everything is the container's; a parent is removed only if it is empty.
    const int result = RemoveGroup(AT_FDCWD, buffer, i == 0 ? 0 : kMaxGroupDepth);
    // Others may have moved into a parent meanwhile: it is theirs then.
    if (result < 0) return i == 0 ? result : 0;
    char* slash = strrchr(buffer, '/');
    if (slash == nullptr || slash == buffer) break;
    *slash = '\0';
  }
  return 0;
}

int WriteFile(Stage& stage, const Op& op) {
  const int fd = raw::OpenAt(stage.Fd(op.a), stage.String(op.s), O_WRONLY | O_NOFOLLOW);
  long result = fd;
  if (fd >= 0) {
    result = raw::Write(fd, stage.String(op.t), op.t.size);
    raw::Close(fd);
  }
  if (result < 0 && !Ignored(op.x, static_cast<int>(-result))) return static_cast<int>(result);
  return 0;
}

int OpenForWrite(Stage& stage, const Op& op) {
  const int fd = raw::OpenAt(stage.Fd(op.a), stage.String(op.s), O_WRONLY | O_NOFOLLOW);
  if (fd < 0) return fd;
  stage.fds[op.b] = fd;
  return 0;
}

int AttachDeviceProgram(Stage& stage, const Op& op) {
  bpf_attr load;
  memset(&load, 0, sizeof(load));
  static const char kLicense[] = "Apache-2.0";
  load.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  load.insns = reinterpret_cast<uint64_t>(stage.String(op.s));
  load.insn_cnt = op.s.size / 8;
  load.license = reinterpret_cast<uint64_t>(kLicense);
  const int program = static_cast<int>(raw::Call(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load)));
  if (program < 0) return program;
  bpf_attr attach;
  memset(&attach, 0, sizeof(attach));
  attach.target_fd = static_cast<uint32_t>(stage.Fd(op.a));
  attach.attach_bpf_fd = static_cast<uint32_t>(program);
  attach.attach_type = BPF_CGROUP_DEVICE;
  attach.attach_flags = BPF_F_ALLOW_MULTI;
  const int result = static_cast<int>(raw::Call(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof(attach)));
  raw::Close(program);
  return result;
}

int EnterCgroup(Stage& stage, const Op& op) {
  const long result = raw::Write(stage.Fd(op.a), "0", 1);
  if (result < 0) return static_cast<int>(result);
  stage.Drop(op.a);
  return 0;
}

}  // namespace davit::runtime::stage
