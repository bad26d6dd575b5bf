#include "runtime/plan/plan.h"

#include <cstring>

namespace davit::runtime::plan {
namespace {

struct Name {
  Code code;
  const char* name;
};

// Names as they appear in errors: a verb, to which the object (the operation's first string) is
// added.
constexpr Name kParentNames[] = {
    {Code::kMakeCgroup, "make cgroup"},
    {Code::kWriteFile, "write cgroup file"},
    {Code::kOpenForWrite, "open cgroup file"},
    {Code::kAttachDeviceProgram, "attach device program"},
    {Code::kMakeOverlay, "make overlay"},
    {Code::kMakeHostDirectory, "make directory"},
    {Code::kCloneMount, "clone rootfs"},
    {Code::kOpenBind, "open bind source"},
    {Code::kOpenNull, "open null device"},
    {Code::kOpenNamespace, "open namespace"},
    {Code::kMakeUserNamespace, "make user namespace"},
};

constexpr Name kChildNames[] = {
    {Code::kEnterCgroup, "enter cgroup"},
    {Code::kOomScoreAdj, "set oom_score_adj"},
    {Code::kJoinNamespaces, "join namespaces"},
    {Code::kNewNamespaces, "make namespaces"},
    {Code::kBecomeRoot, "become root of the user namespace"},
    {Code::kCloneAgain, "clone again"},
    {Code::kLoopbackUp, "set loopback up"},
    {Code::kPrivateMounts, "make mounts private"},
    {Code::kMountOverlay, "mount overlay"},
    {Code::kHandRootfs, "hand over rootfs"},
    {Code::kAttachRootfs, "attach rootfs"},
    {Code::kNewMount, "make mount"},
    {Code::kCloneTree, "clone mount"},
    {Code::kAttachMount, "mount"},
    {Code::kSetAttributes, "set mount attributes"},
    {Code::kMakeNode, "make device"},
    {Code::kMakeDirectory, "make directory"},
    {Code::kMakeFile, "make file"},
    {Code::kMakeSymlink, "make symlink"},
    {Code::kConsole, "set up console"},
    {Code::kMaskPath, "mask"},
    {Code::kReadonlyPath, "make read-only"},
    {Code::kOpenProc, "open private procfs"},
    {Code::kSysctl, "set sysctl"},
    {Code::kHostname, "set hostname"},
    {Code::kDomainname, "set domainname"},
    {Code::kRootReadonly, "make rootfs read-only"},
    {Code::kPivotRoot, "change root"},
    {Code::kRootPropagation, "set rootfs propagation"},
    {Code::kKeyring, "join session keyring"},
    {Code::kNewSession, "make session"},
    {Code::kRlimit, "set rlimit"},
    {Code::kStdio, "set up stdio"},
    {Code::kChangeDirectory, "change directory"},
    {Code::kUmask, "set umask"},
    {Code::kBounding, "drop bounding capabilities"},
    {Code::kIds, "set user"},
    {Code::kCapabilities, "set capabilities"},
    {Code::kCheckDirectory, "check working directory"},
    {Code::kNoNewPrivileges, "set no_new_privs"},
    {Code::kReady, "wait for start"},
    {Code::kSeccomp, "load seccomp program"},
    {Code::kCloseFds, "close descriptors"},
    {Code::kExec, "exec"},
};

const char* Find(std::span<const Name> names, Code code) {
  for (const Name& name : names) {
    if (name.code == code) return name.name;
  }
  return nullptr;
}

const char* CheckHeader(const Header& header, size_t size) {
  if (memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return "not a plan";
  if (header.version != kPlanVersion) return "another plan version";
  if (header.kind != Kind::kContainer && header.kind != Kind::kExec) return "unknown kind";
  if (header.total_size != size) return "wrong total size";
  if (header.slot_count < kExternalSlots || header.slot_count > kMaxSlots) return "bad slot count";
  if (header.parent_count > kMaxOps || header.child_count > kMaxOps) return "too many operations";
  const uint64_t ops = (uint64_t{header.parent_count} + header.child_count) * sizeof(Op);
  if (header.data_offset != sizeof(Header) + ops) return "bad data offset";
  if (header.data_offset > size || header.data_size != size - header.data_offset) {
    return "bad data size";
  }
  if (header.data_size == 0) return "no data";
  return nullptr;
}

bool SlotOk(const Header& header, int32_t slot) {
  return slot >= -1 && slot < static_cast<int32_t>(header.slot_count);
}

bool RefOk(const View& view, Ref ref) {
  const uint64_t size = view.header().data_size;
  // One more byte for the NUL behind the string.
  if (uint64_t{ref.offset} + ref.size + 1 > size) return false;
  return view.String(ref)[ref.size] == '\0';
}

// A list ends with the NUL of its last item.
bool ListOk(const View& view, Ref ref) {
  return ref.size == 0 || view.String(ref)[ref.size - 1] == '\0';
}

// Slots that an operation cannot do without.
const char* CheckSlots(const Header& header, const Op& op) {
  bool a = false;
  bool b = false;
  switch (op.code) {
    case Code::kWriteFile:
    case Code::kAttachDeviceProgram:
    case Code::kEnterCgroup:
    case Code::kJoinNamespaces:
    case Code::kAttachRootfs:
    case Code::kAttachMount:
    case Code::kSetAttributes:
    case Code::kSysctl:
    case Code::kSeccomp:
      a = true;
      break;
    case Code::kMakeCgroup:
    case Code::kMakeOverlay:
    case Code::kOpenBind:
    case Code::kOpenNull:
    case Code::kOpenNamespace:
    case Code::kMakeUserNamespace:
    case Code::kNewMount:
    case Code::kCloneTree:
    case Code::kOpenProc:
      b = true;
      break;
    case Code::kOpenForWrite:
    case Code::kCloneMount:
    case Code::kMaskPath:
      a = b = true;
      break;
    case Code::kMountOverlay:
      if (op.a < 0 || op.b < 0 || op.c < 0 || op.x == 0 ||
          op.x > header.slot_count - static_cast<uint64_t>(op.a)) {
        return "an overlay with bad slots";
      }
      break;
    default:
      break;
  }
  if ((a && op.a < 0) || (b && op.b < 0)) return "an operation lacks a slot";
  // What an operation opens goes into a slot of the plan's own, never over the creator's.
  if (b && op.b < kExternalSlots) return "an operation overwrites an external slot";
  return nullptr;
}

const char* CheckOp(const View& view, const Op& op, bool parent) {
  const Header& header = view.header();
  const char* name = parent ? Find(kParentNames, op.code) : Find(kChildNames, op.code);
  if (name == nullptr) return "unknown operation";
  if (!SlotOk(header, op.a) || !SlotOk(header, op.b) || !SlotOk(header, op.c)) return "bad slot";
  if (!RefOk(view, op.s) || !RefOk(view, op.t) || !RefOk(view, op.u)) return "bad string";
  switch (op.code) {
    case Code::kMakeOverlay:
      if (!ListOk(view, op.s)) return "bad list";
      break;
    case Code::kNewMount:
      if (!ListOk(view, op.t)) return "bad list";
      break;
    case Code::kExec:
      if (!ListOk(view, op.s) || !ListOk(view, op.t) || op.s.size == 0) return "bad list";
      break;
    case Code::kIds:
      if (op.s.size % 4 != 0 || op.s.offset % 4 != 0) return "bad group list";
      break;
    case Code::kAttachDeviceProgram:
      if (op.s.size % 8 != 0 || op.s.offset % 8 != 0) return "bad device program";
      break;
    default:
      break;
  }
  return CheckSlots(header, op);
}

}  // namespace

const char* OpName(Code code) {
  const char* name = Find(kParentNames, code);
  if (name == nullptr) name = Find(kChildNames, code);
  return name == nullptr ? "?" : name;
}

const char* Validate(std::span<const unsigned char> bytes) {
  if (bytes.size() < sizeof(Header) || bytes.size() > kMaxPlanBytes) return "bad size";
  if (reinterpret_cast<uintptr_t>(bytes.data()) % alignof(Header) != 0) return "misaligned";
  const View view(bytes);
  const Header& header = view.header();
  if (const char* error = CheckHeader(header, bytes.size())) return error;
  for (const int32_t slot : {header.clone_cgroup, header.pid_namespace, header.rootfs_clone}) {
    if (!SlotOk(header, slot)) return "bad slot in the header";
  }
  for (const Op& op : view.parent_ops()) {
    if (const char* error = CheckOp(view, op, true)) return error;
  }
  for (const Op& op : view.child_ops()) {
    if (const char* error = CheckOp(view, op, false)) return error;
  }
  // The process must end in the payload: running off the list would return into the creator's code.
  if (header.child_count == 0 || view.child_ops().back().code != Code::kExec) {
    return "the last operation is not exec";
  }
  for (const Op& op : view.child_ops().first(header.child_count - 1)) {
    if (op.code == Code::kExec) return "exec is not the last operation";
  }
  return nullptr;
}

}  // namespace davit::runtime::plan
