#ifndef DAVIT_RUNTIME_PLAN_PLAN_H_
#define DAVIT_RUNTIME_PLAN_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

// The plan: what it takes to bring one container (or one more process in it) into being, as a flat
// block of bytes without pointers. The daemon compiles it (compile.h); the supervisor maps it and
// executes it (runtime/stage). The format is private to one machine: native byte order.
//
//   Header | Op[parent_count + child_count] | data
//
// Operations come in two lists. PARENT operations are executed by the creator, in its own (the
// host's) namespaces, before the process exists: cgroups, the rootfs, sources of bind mounts. CHILD
// operations are executed by the new process between clone3 and execve. Descriptors travel in
// numbered slots: the first kExternalSlots are given by the creator, the others are filled by
// operations.
//
// Everything here is readable without a heap. Strings are (offset, size) into the data and followed
// by a NUL; lists of strings are one string with the items separated by NUL.
namespace davit::runtime::plan {

inline constexpr char kMagic[8] = {'D', 'A', 'V', 'I', 'T', 'P', 'L', 'N'};
// Grows with every change of the meaning of a plan. A supervisor executes exactly its own version
// and is upgraded before it gets a newer plan.
inline constexpr uint32_t kPlanVersion = 1;

inline constexpr size_t kMaxPlanBytes = 16 * 1024 * 1024;
inline constexpr uint32_t kMaxOps = 16384;
inline constexpr uint32_t kMaxSlots = 1024;

enum class Kind : uint32_t { kContainer = 1, kExec = 2 };

// Slots that the creator fills (stage/launch.h, ExternalFds). -1 in an Op means no slot.
enum Slot : int32_t {
  kStdin = 0,
  kStdout,
  kStderr,
  kSeccompProgram,     // memfd with an array of struct sock_filter
  kPodMountNamespace,  // mount namespace to start from
  kPidNamespace,       // pidfd of a member, or a pid namespace: joined around clone3
  kUserNamespace,      // user namespace to enter first
  kTarget,             // exec: pidfd of the container's init
  kConsoleSocket,      // unused by davit-pod: room for runtime commands
  kExternalSlots = 16,
};

// What an operation does. Comments: [slots a, b, c] (strings s, t, u) numbers x, y, z, w.
enum class Code : uint16_t {
  kNone = 0,
  // ---- parent ----
  // [b: directory out] (s: absolute directory) x: mode. Makes the directory and missing parents; a
  // leaf that exists already is EEXIST unless kMayExist. Undo removes what it made.
  kMakeCgroup = 1,
  // [a: directory] (s: file, t: value): one write to an existing file. x: failures that do not
  // matter, as cgroup::WriteFlags.
  kWriteFile,
  // [a: directory, b: out] (s: file): opens it for writing.
  kOpenForWrite,
  // [a: cgroup directory] (s: eBPF instructions): attaches a device program (cgroup v2).
  kAttachDeviceProgram,
  // [b: out, c: user namespace or -1] (s: lower directories, topmost first, t: upper, u: work).
  // x, y: owner of the upper directory, 0 = as the topmost layer's. Flags kVolatile. Makes an
  // overlay mount, detached; upper and work are made if missing.
  kMakeOverlay,
  // (s: absolute directory) x: mode. Makes it if it is missing; its parent exists.
  kMakeHostDirectory,
  // [a: mount, b: out]: clones a detached mount, for rootfs_clone_fd().
  kCloneMount,
  // [b: out, c: user namespace for idmap or -1] (s: host path) x: attributes to set, y: to clear,
  // z: recursive ones to set, w: recursive ones to clear. Flags: kRecursive, kCreateMissing, kUser
  // (the path is a user's and may hang: opened in the disposable helper), propagation flags.
  kOpenBind,
  // [b: out]: opens the host's /dev/null and verifies that it is the character device 1:3.
  kOpenNull,
  // [b: out] (s: path) x: CLONE_NEW* it has to be.
  kOpenNamespace,
  // [b: out] (s: uid map text, t: gid map text): makes a user namespace.
  kMakeUserNamespace,
  // ---- child ----
  // [a: file]: writes "0", i.e. itself, to a cgroup's `tasks` or `cgroup.procs`.
  kEnterCgroup = 100,
  // (s: value): /proc/self/oom_score_adj of the host's procfs. First of all, while it is visible.
  kOomScoreAdj,
  // [a: namespace or pidfd] x: CLONE_NEW* flags.
  kJoinNamespaces,
  kNewNamespaces,  // x: CLONE_NEW* flags, by unshare
  kBecomeRoot,     // ids 0 of the user namespace just entered
  // x: CLONE_NEW* flags. The process is born again, owned by the user namespace that it has
  // entered: the new one goes on as the creator's child, this one ends.
  kCloneAgain,
  kLoopbackUp,
  kPrivateMounts,  // everything in the (own) mount namespace becomes private
  // [a: slot of the topmost layer's mount, further down in the slots that follow; b: out; c: slot
  // of the mount that holds upper and work] (s: name of upper there, t: name of work) x: layers.
  // kVolatile. The overlay for kernels without lowerdir+: mount(2) with short relative names.
  kMountOverlay,
  kHandRootfs,    // hands a clone of the attached rootfs to the creator
  kAttachRootfs,  // [a: mount]: on top of the namespace's root; everything below resolves in it
  // [b: out] (s: type, t: list of options "key=value" or "flag", u: source) x: MOUNT_ATTR_*.
  kNewMount,
  // [b: out] (s: path in the current mount namespace) x, y, z, w and flags as kOpenBind.
  kCloneTree,
  // [a: mount, b: directory instead of the rootfs] (s: target beneath it). Flags: kDirectory or
  // kFile (what to make where nothing is), kNoSymlinks, kInheritMode (tmpfs takes the mode of what
  // it covers), kOnProc (may lie in /proc), kKeepSlot (the mount is used again).
  kAttachMount,
  kSetAttributes,  // [a: mount] x: set, y: clear. kRecursive.
  // [a: base directory or -1 = rootfs] (s: path) x: mode with type, y: device number, z: uid,
  // w: gid. An equal node is kept, a different one is EEXIST.
  kMakeNode,
  kMakeDirectory,  // [a] (s) x: mode. May exist.
  kMakeFile,       // [a] (s) x: mode. May exist.
  kMakeSymlink,    // [a] (s: path, t: target). May exist with the same target.
  // A pty of the container's own devpts at /dev/pts; its slave becomes stdin, stdout and stderr.
  // x: rows, y: columns, z: uid of the owner. kFile: also bound at /dev/console. Hands the master
  // over.
  kConsole,
  kMaskPath,      // [a: null device's mount source, b: slot for the shared tmpfs] (s: path)
  kReadonlyPath,  // (s: path)
  kOpenProc,      // [b: out]: a private procfs for kSysctl
  kSysctl,        // [a: procfs] (s: "net/ipv4/ip_forward", t: value)
  kHostname,      // (s)
  kDomainname,    // (s)
  kRootReadonly,  // the rootfs' top mount
  kPivotRoot,
  kRootPropagation,  // x: MS_SHARED, MS_UNBINDABLE, ...
  kKeyring,          // (s: name): a session keyring
  kNewSession,       // setsid; the console, if any, becomes the controlling terminal
  kRlimit,           // x: resource, y: soft, z: hard. kRaiseOnly: only a hard limit that is too low
  // [a: stdin, b: stdout, c: stderr]: become 0, 1 and 2; pipes then belong to x, -1 = leave them.
  kStdio,
  kChangeDirectory,  // (s): made if missing (flag kDirectory). EACCES is left to kCheckDirectory.
  kUmask,            // x
  kBounding,         // x: set
  kIds,              // x: uid, y: gid, (s: array of uint32 additional groups)
  kCapabilities,     // x: effective, y: permitted, z: inheritable, w: ambient
  kCheckDirectory,   // getcwd must lie inside the root
  kNoNewPrivileges,
  kReady,     // reports "created" and waits for the start byte
  kSeccomp,   // [a: program] x: SECCOMP_FILTER_FLAG_*
  kCloseFds,  // everything above 2 but the report is closed
  kExec,      // (s: list argv, t: list environment, u: value of PATH)
};

enum Flag : uint16_t {
  kRecursive = 1,
  kIgnoreMissing = 2,
  kMayExist = 4,
  kCreateMissing = 8,
  kUser = 16,
  kVolatile = 32,
  kDirectory = 64,
  kFile = 128,
  kNoSymlinks = 256,
  kInheritMode = 512,
  kOnProc = 1024,
  kKeepSlot = 2048,
  kRaiseOnly = 4096,
  kExisting = 8192,         // kMakeCgroup: it must be there already, and is not undone
  kExistingParent = 16384,  // kMakeCgroup: only the leaf is made
};

// Propagation of a bind mount, in Op::propagation: MS_PRIVATE, MS_SLAVE, MS_SHARED or
// MS_UNBINDABLE, with MS_REC for the whole tree.

struct Ref {
  uint32_t offset = 0;
  uint32_t size = 0;  // without the NUL that follows
};

struct Op {
  Code code = Code::kNone;
  uint16_t flags = 0;
  int32_t a = -1;
  int32_t b = -1;
  int32_t c = -1;
  uint64_t x = 0;
  uint64_t y = 0;
  uint64_t z = 0;
  uint64_t w = 0;
  uint64_t propagation = 0;
  Ref s;
  Ref t;
  Ref u;
};
static_assert(sizeof(Op) == 80);

struct Header {
  char magic[8] = {};
  uint32_t version = 0;
  Kind kind = Kind::kContainer;
  uint32_t total_size = 0;
  uint32_t slot_count = 0;  // external ones included
  uint32_t parent_count = 0;
  uint32_t child_count = 0;
  uint32_t data_offset = 0;
  uint32_t data_size = 0;
  // Namespaces to make with the process (CLONE_NEW*), by clone3.
  uint64_t clone_flags = 0;
  int32_t clone_cgroup = -1;   // slot of the cgroup v2 directory to be born in
  int32_t pid_namespace = -1;  // slot joined by the creator around clone3
  int32_t clones_again = 0;    // 1: there is a kCloneAgain
  int32_t rootfs_clone = -1;   // slot kept for rootfs_clone_fd()
  // Fault injection: operation number `fault_op` (parent operations first) fails with
  // `fault_errno` instead of being executed. -1: none.
  int32_t fault_op = -1;
  int32_t fault_errno = 0;
  uint32_t terminal = 0;    // 1: a console is handed over
  uint32_t hook_count = 0;  // room for hooks; 0 in this version
};
static_assert(sizeof(Header) == 80);

// The operation's name in errors and traces: "mount proc" is {OpName(op.code), string s}.
const char* OpName(Code code);

// A validated plan. Borrows the bytes.
class View {
 public:
  View() = default;
  explicit View(std::span<const unsigned char> bytes) : bytes_(bytes) {}

  const Header& header() const { return *reinterpret_cast<const Header*>(bytes_.data()); }
  std::span<const Op> parent_ops() const { return {ops(), header().parent_count}; }
  std::span<const Op> child_ops() const {
    return {ops() + header().parent_count, header().child_count};
  }
  // NUL-terminated.
  const char* String(Ref ref) const {
    return reinterpret_cast<const char*>(bytes_.data()) + header().data_offset + ref.offset;
  }

 private:
  const Op* ops() const { return reinterpret_cast<const Op*>(bytes_.data() + sizeof(Header)); }
  std::span<const unsigned char> bytes_;
};

// Checks every size, offset, slot, code and NUL of `bytes` (which must be aligned to 8), so that no
// reader of the View can leave them. Returns null if it is sound, else what is wrong (a static
// string). Allocates nothing.
const char* Validate(std::span<const unsigned char> bytes);

// Calls fn(const char* item) for each item of a list of `ref`.
template <typename Fn>
void ForEachItem(const View& view, Ref ref, Fn fn) {
  const char* p = view.String(ref);
  const char* end = p + ref.size;
  while (p < end) {
    fn(p);
    p += strlen(p) + 1;
  }
}

}  // namespace davit::runtime::plan

#endif  // DAVIT_RUNTIME_PLAN_PLAN_H_
