// Any bytes as a plan: what Validate lets through, every reader can read to its end.

#include <cstdint>
#include <cstring>
#include <span>

#include "runtime/plan/builder.h"
#include "runtime/plan/plan.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {
namespace {

namespace plan = runtime::plan;

// One operation of each kind that Validate looks at more closely.
std::string ContainerPlan() {
  plan::Builder builder(plan::Kind::kContainer);
  const plan::Ref cgroup = builder.String("/sys/fs/cgroup/a/b");
  plan::Op& make = builder.Parent(plan::Code::kMakeCgroup);
  make.s = cgroup;
  make.b = builder.NewSlot();
  builder.header().clone_cgroup = make.b;
  builder.header().clone_flags = 0x20000000;
  const plan::Ref layers = builder.List({"/l1", "/l0"});
  plan::Op& overlay = builder.Parent(plan::Code::kMakeOverlay);
  overlay.s = layers;
  overlay.b = builder.NewSlot();
  const int32_t rootfs = overlay.b;
  plan::Op& bind = builder.Parent(plan::Code::kOpenBind);
  bind.flags = plan::kUser | plan::kRecursive;
  bind.s = cgroup;
  bind.b = builder.NewSlot();
  const int32_t source = bind.b;
  builder.Child(plan::Code::kAttachRootfs).a = rootfs;
  plan::Op& attach = builder.Child(plan::Code::kAttachMount);
  attach.a = source;
  attach.s = builder.String("mnt");
  plan::Op& mount = builder.Child(plan::Code::kNewMount);
  mount.s = builder.String("tmpfs");
  mount.t = builder.List({"size=1", "mode=755"});
  mount.b = builder.NewSlot();
  builder.Child(plan::Code::kIds).x = 1000;
  plan::Op& exec = builder.Child(plan::Code::kExec);
  exec.s = builder.List({"/bin/sh", "-c", "true"});
  exec.t = builder.List({"PATH=/bin"});
  exec.u = builder.String("/bin");
  return builder.Finish();
}

std::string ExecPlan() {
  plan::Builder builder(plan::Kind::kExec);
  builder.header().terminal = 1;
  builder.Child(plan::Code::kJoinNamespaces).a = plan::kTarget;
  builder.Child(plan::Code::kSeccomp).a = plan::kSeccompProgram;
  builder.Child(plan::Code::kExec).s = builder.List({"true"});
  return builder.Finish();
}

// Sums what a reader may touch, so that nothing of it is optimised away.
unsigned Read(const plan::View& view, const plan::Op& op) {
  unsigned sum = 0;
  for (const plan::Ref ref : {op.s, op.t, op.u}) {
    const char* text = view.String(ref);
    DAVIT_FUZZ_CHECK(text[ref.size] == '\0');
    for (uint32_t i = 0; i < ref.size; ++i) sum += static_cast<unsigned char>(text[i]);
    sum += static_cast<unsigned>(strlen(text));
  }
  for (const int32_t slot : {op.a, op.b, op.c}) {
    DAVIT_FUZZ_CHECK(slot >= -1 && slot < static_cast<int32_t>(view.header().slot_count));
  }
  const auto list = [&](plan::Ref ref) {
    const char* end = view.String(ref) + ref.size;
    plan::ForEachItem(view, ref, [&](const char* item) {
      DAVIT_FUZZ_CHECK(item < end);
      sum += static_cast<unsigned>(strlen(item));
    });
  };
  if (op.code == plan::Code::kMakeOverlay || op.code == plan::Code::kExec) list(op.s);
  if (op.code == plan::Code::kNewMount || op.code == plan::Code::kExec) list(op.t);
  DAVIT_FUZZ_CHECK(strcmp(plan::OpName(op.code), "?") != 0);
  return sum;
}

}  // namespace

std::vector<std::string> Seeds() { return {ContainerPlan(), ExecPlan()}; }

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace plan = davit::runtime::plan;
  // A plan is mapped, so aligned; and exactly as long as its file.
  std::vector<uint64_t> aligned((size + 7) / 8);
  if (size > 0) memcpy(aligned.data(), data, size);
  // The last bytes end where the allocation does, if the size is whole: a plan's is.
  const auto* bytes = reinterpret_cast<const unsigned char*>(aligned.data());
  const std::span<const unsigned char> whole(bytes, size);
  if (plan::Validate(whole) != nullptr) return 0;
  const plan::View view(whole);
  unsigned sum = 0;
  for (const plan::Op& op : view.parent_ops()) sum += davit::fuzzing::Read(view, op);
  for (const plan::Op& op : view.child_ops()) sum += davit::fuzzing::Read(view, op);
  volatile unsigned sink = sum;
  (void)sink;
  return 0;
}
