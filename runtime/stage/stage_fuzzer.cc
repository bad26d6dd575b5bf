// A plan that is sound but hostile, executed by the stage on a kernel that is hostile too: every
// system call is answered here, from the input, and nothing reaches the real kernel. No plan and no
// answer may lead the stage out of its memory.
//
// Input: the plan's length (16 bits), the plan, then the kernel's answers.

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "runtime/plan/builder.h"
#include "runtime/stage/stage.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {
namespace {

using runtime::plan::Code;
namespace plan = runtime::plan;
namespace stage = runtime::stage;

// Reads the answers; with none left everything succeeds.
class Script {
 public:
  void Set(const uint8_t* data, size_t size) { data_ = data, size_ = size, calls_ = 0; }
  uint8_t Byte() {
    if (size_ == 0) return 0;
    --size_;
    return *data_++;
  }
  void Fill(void* to, size_t size) {
    const size_t n = std::min(size, size_);
    memset(to, 0, size);
    if (n > 0) memcpy(to, data_, n);
    data_ += n;
    size_ -= n;
  }
  // A stage that asks without end is a defect of its own.
  void Count() { DAVIT_FUZZ_CHECK(++calls_ < 1000000); }

 private:
  const uint8_t* data_ = nullptr;
  size_t size_ = 0;
  int calls_ = 0;
};

Script script;
bool faking = false;
sigjmp_buf process_end;

size_t Bytes(unsigned long count) { return std::min<size_t>(count, 4096); }

// A text of at most `size` bytes, its length (with the NUL if `terminated`) returned.
long FillText(char* to, size_t size, bool terminated) {
  const size_t length = std::min<size_t>(size, script.Byte());
  script.Fill(to, length);
  if (terminated && length > 0) to[length - 1] = '\0';
  return static_cast<long>(length);
}

// What the call writes into our memory, and its result.
long Answer(long number, const unsigned long* args) {
  script.Count();
  // A process that waits for its end is at its end here.
  if (number == SYS_exit_group || number == SYS_pause) siglongjmp(process_end, 1);
  const uint8_t kind = script.Byte();
  if (kind >= 0xc0) return -(1 + (kind & 0x3f));
  char* const second = reinterpret_cast<char*>(args[1]);
  char* const third = reinterpret_cast<char*>(args[2]);
  switch (number) {
    case SYS_execve:
      siglongjmp(process_end, 1);
    case SYS_read: {
      const size_t n = std::min<size_t>(Bytes(args[2]), kind);
      script.Fill(second, n);
      return static_cast<long>(n);
    }
    case SYS_write:
    case SYS_pwrite64:
      return static_cast<long>(args[2]);
    case SYS_fstat:
      script.Fill(second, sizeof(struct stat));
      return 0;
    case SYS_newfstatat:
      script.Fill(third, sizeof(struct stat));
      return 0;
    case SYS_fstatfs:
      script.Fill(second, sizeof(struct statfs));
      return 0;
    case SYS_readlinkat:
      return FillText(third, args[3], false);
    case SYS_getcwd:
      return FillText(reinterpret_cast<char*>(args[0]), args[1], true);
    case SYS_getdents64:
      return 0;
    case SYS_prlimit64:
      if (args[3] != 0) script.Fill(reinterpret_cast<char*>(args[3]), sizeof(struct rlimit));
      return 0;
    case SYS_wait4:
      if (second != nullptr) script.Fill(second, sizeof(int));
      return static_cast<long>(args[0]);
    case SYS_ioctl:
    case SYS_prctl:
    case SYS_close:
    case SYS_sendmsg:
      return 0;
    case SYS_openat:
    case SYS_openat2:
    case SYS_open_tree:
    case SYS_fsopen:
    case SYS_fsmount:
    case SYS_socket:
    case SYS_fcntl:
    case SYS_pidfd_open:
    case SYS_bpf:
      return kind & 0x7f;  // a descriptor, perhaps of stdio
    case SYS_clone3:
      return (kind & 1) != 0 ? 0 : 70;  // child or parent
    default:
      return 0;
  }
}

// Pointers that the kernel would read: as far as it would.
void ReadArguments(long number, const unsigned long* args) {
  volatile size_t sink = 0;
  const auto text = [&](unsigned long pointer) {
    if (pointer != 0) sink = sink + strlen(reinterpret_cast<const char*>(pointer));
  };
  switch (number) {
    case SYS_openat:
    case SYS_openat2:
    case SYS_open_tree:
    case SYS_mkdirat:
    case SYS_mknodat:
    case SYS_unlinkat:
    case SYS_readlinkat:
    case SYS_newfstatat:
    case SYS_fchownat:
    case SYS_fchmodat:
    case SYS_mount_setattr:
      text(args[1]);
      break;
    case SYS_symlinkat:
      text(args[0]);
      text(args[2]);
      break;
    case SYS_move_mount:
      text(args[1]);
      text(args[3]);
      break;
    case SYS_fsopen:
    case SYS_chdir:
    case SYS_umount2:
    case SYS_pivot_root:
      text(args[0]);
      break;
    case SYS_fsconfig:
      text(args[2]);
      if (args[1] == 1) text(args[3]);  // FSCONFIG_SET_STRING
      break;
    case SYS_mount:
      text(args[0]);
      text(args[1]);
      text(args[2]);
      text(args[4]);
      break;
    case SYS_write: {
      const auto* bytes = reinterpret_cast<const unsigned char*>(args[1]);
      for (unsigned long i = 0; i < args[2]; ++i) sink = sink + bytes[i];
      break;
    }
    case SYS_setgroups: {
      const auto* groups = reinterpret_cast<const uint32_t*>(args[1]);
      for (unsigned long i = 0; i < args[0]; ++i) sink = sink + groups[i];
      break;
    }
    case SYS_execve:
      text(args[0]);
      for (const int list : {1, 2}) {
        const auto* const* item = reinterpret_cast<const char* const*>(args[list]);
        for (; *item != nullptr; ++item) sink = sink + strlen(*item);
      }
      break;
    default:
      break;
  }
}

// A plan of its own memory, exactly as long as it is.
struct Machine {
  explicit Machine(size_t plan_size) : plan((plan_size + 7) / 8) {}
  std::vector<uint64_t> plan;
  std::vector<uint64_t> shared;
  std::vector<int32_t> child_fds;
  std::vector<const char*> argv;
  std::vector<const char*> environment;
  sock_filter filter[1] = {};
  stage::Stage stage;
};

// As Launch lays it out.
std::unique_ptr<Machine> Load(const uint8_t* data, size_t size) {
  auto machine = std::make_unique<Machine>(size);
  if (size > 0) memcpy(machine->plan.data(), data, size);
  const std::span<const unsigned char> bytes(
      reinterpret_cast<const unsigned char*>(machine->plan.data()), size);
  if (plan::Validate(bytes) != nullptr) return nullptr;
  stage::Stage& s = machine->stage;
  s.view = plan::View(bytes);
  const plan::Header& header = s.view.header();
  const size_t traces = (size_t{header.parent_count} + header.child_count) * sizeof(stage::Trace);
  const size_t slots = header.slot_count * sizeof(int32_t);
  machine->shared.resize((offsetof(stage::Shared, fds) + slots + traces + 15) / 8);
  s.shared = new (machine->shared.data()) stage::Shared();
  s.fds = s.shared->fds;
  s.traces = reinterpret_cast<stage::Trace*>(s.fds + header.slot_count);
  for (uint32_t i = 0; i < header.slot_count; ++i) s.fds[i] = i < plan::kExternalSlots ? 50 : -1;
  const plan::Op& exec = s.view.child_ops().back();
  plan::ForEachItem(s.view, exec.s, [&](const char* item) { machine->argv.push_back(item); });
  plan::ForEachItem(s.view, exec.t,
                    [&](const char* item) { machine->environment.push_back(item); });
  machine->argv.push_back(nullptr);
  machine->environment.push_back(nullptr);
  s.argv = machine->argv.data();
  s.environment = machine->environment.data();
  s.seccomp.len = 1;
  s.seccomp.filter = machine->filter;
  return machine;
}

void Undo(stage::Stage& s) {
  const auto ops = s.view.parent_ops();
  for (size_t i = ops.size(); i > 0; --i) {
    const stage::Row* row = stage::FindParentRow(ops[i - 1].code);
    if (s.traces[i - 1].done != 0 && row->undo != nullptr) {
      row->undo(s, ops[i - 1], s.traces[i - 1]);
    }
  }
}

void Execute(Machine* machine) {
  stage::Stage& s = machine->stage;
  faking = true;
  if (sigsetjmp(process_end, 0) == 0) {
    stage::RunParentOps(s, 0, s.view.header().parent_count);
  }
  machine->child_fds.assign(s.fds, s.fds + s.view.header().slot_count);
  if (sigsetjmp(process_end, 0) == 0) Undo(s);
  if (sigsetjmp(process_end, 0) == 0) {
    s.fds = machine->child_fds.data();
    s.report = 60;
    stage::RunChild(s);
  }
  faking = false;
}

// Every operation that there is, with strings, in its list.
std::string AllOperations() {
  plan::Builder builder(plan::Kind::kContainer);
  const plan::Ref path = builder.String("/proc/sys/net/a");
  const plan::Ref list = builder.List({"mode=755", "ro"});
  const auto fill = [&](plan::Op& op) {
    op.s = path;
    op.t = list;
    op.u = builder.String("work");
    op.a = plan::kStdin;
    op.b = builder.NewSlot();
    op.x = 1;
    if (op.code == Code::kMakeOverlay || op.code == Code::kExec) op.s = list;
    if (op.code == Code::kIds || op.code == Code::kAttachDeviceProgram) op.s = {};
    if (op.code == Code::kMountOverlay) op.c = op.a;
  };
  for (int code = 0; code < 100; ++code) {
    if (stage::FindParentRow(static_cast<Code>(code)) != nullptr) {
      fill(builder.Parent(static_cast<Code>(code)));
    }
  }
  for (int code = 100; code < 200; ++code) {
    // CloneAgain and exec would hide what comes after.
    if (stage::FindChildRow(static_cast<Code>(code)) != nullptr &&
        static_cast<Code>(code) != Code::kExec) {
      fill(builder.Child(static_cast<Code>(code)));
    }
  }
  fill(builder.Child(Code::kExec));
  return builder.Finish();
}

std::string OneOperation(Code code, bool parent) {
  plan::Builder builder(plan::Kind::kContainer);
  const plan::Ref path = builder.String("/a/../b/./proc");
  const plan::Ref list = builder.List({"x=1", "y"});
  plan::Op& op = parent ? builder.Parent(code) : builder.Child(code);
  op.s = path;
  op.t = list;
  op.a = plan::kStdin;
  op.b = builder.NewSlot();
  op.x = 1;
  if (code == Code::kMakeOverlay) op.s = list;
  if (code == Code::kIds || code == Code::kAttachDeviceProgram) op.s = {};
  if (code == Code::kMountOverlay) op.c = op.a;
  plan::Op& exec = builder.Child(Code::kExec);
  exec.s = list;
  exec.t = list;
  exec.u = path;
  return builder.Finish();
}

std::string WithAnswers(const std::string& plan, const std::string& answers) {
  std::string input;
  input += static_cast<char>(plan.size() & 0xff);
  input += static_cast<char>(plan.size() >> 8);
  return input + plan + answers;
}

}  // namespace

std::vector<std::string> Seeds() {
  std::vector<std::string> seeds = {WithAnswers(AllOperations(), ""),
                                    WithAnswers(AllOperations(), std::string(64, '\x03'))};
  for (int code = 0; code < 200; ++code) {
    const bool parent = code < 100;
    const auto* row = parent ? stage::FindParentRow(static_cast<Code>(code))
                             : stage::FindChildRow(static_cast<Code>(code));
    if (row == nullptr || static_cast<Code>(code) == Code::kExec) continue;
    seeds.push_back(WithAnswers(OneOperation(static_cast<Code>(code), parent), ""));
  }
  return seeds;
}

}  // namespace davit::fuzzing

// In front of libc's: what the stage calls through runtime/sys/syscalls.h. Everybody else's calls
// go to the kernel. All six arguments are read, even where fewer were given.
extern "C" __attribute__((no_sanitize("address"))) long syscall(long number, ...) noexcept {
  unsigned long args[6];
  va_list list;
  va_start(list, number);
  for (unsigned long& arg : args) arg = va_arg(list, unsigned long);
  va_end(list);
  long result;
  if (davit::fuzzing::faking) {
    davit::fuzzing::ReadArguments(number, args);
    result = davit::fuzzing::Answer(number, args);
  } else {
    register unsigned long r10 asm("r10") = args[3];
    register unsigned long r8 asm("r8") = args[4];
    register unsigned long r9 asm("r9") = args[5];
    asm volatile("syscall"
                 : "=a"(result)
                 : "0"(number), "D"(args[0]), "S"(args[1]), "d"(args[2]), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
  }
  if (result >= 0 || result < -4095) return result;
  errno = static_cast<int>(-result);
  return -1;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace fuzzing = davit::fuzzing;
  if (size < 2) return 0;
  const size_t length = data[0] + size_t{256} * data[1];
  if (length > size - 2) return 0;
  const auto machine = fuzzing::Load(data + 2, length);
  if (machine == nullptr) return 0;
  fuzzing::script.Set(data + 2 + length, size - 2 - length);
  fuzzing::Execute(machine.get());
  umask(022);
  prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
  return 0;
}
