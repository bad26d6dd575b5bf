#include "runtime/seccomp/cache.h"

#include <optional>
#include <utility>

#include "absl/strings/string_view.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::runtime::seccomp {
namespace {

class Encoder {
 public:
  void Number(uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) key_ += static_cast<char>((value >> shift) & 0xff);
  }
  void Text(absl::string_view text) {
    Number(text.size());
    key_.append(text.data(), text.size());
  }
  void Texts(const std::vector<std::string>& texts) {
    Number(texts.size());
    for (const std::string& text : texts) Text(text);
  }
  void Optional(const std::optional<uint32_t>& value) {
    key_ += value.has_value() ? '\1' : '\0';
    Number(value.value_or(0));
  }
  std::string Take() { return std::move(key_); }

 private:
  std::string key_;
};

}  // namespace

std::string CanonicalKey(const spec::Seccomp& profile) {
  Encoder encoder;
  encoder.Text(profile.default_action);
  encoder.Optional(profile.default_errno_ret);
  encoder.Texts(profile.architectures);
  encoder.Texts(profile.flags);
  encoder.Number(profile.syscalls.size());
  for (const spec::SeccompRule& rule : profile.syscalls) {
    encoder.Texts(rule.names);
    encoder.Text(rule.action);
    encoder.Optional(rule.errno_ret);
    encoder.Number(rule.args.size());
    for (const spec::SeccompArg& arg : rule.args) {
      encoder.Number(arg.index);
      encoder.Number(arg.value);
      encoder.Number(arg.value_two);
      encoder.Text(arg.op);
    }
  }
  return encoder.Take();
}

// `program` is set once; until then, one caller compiles and the others wait.
struct ProgramCache::Slot {
  bool finished = false;
  absl::Status failure;
  std::shared_ptr<const CachedProgram> program;
  std::list<std::string>::iterator position;  // in by_use_, valid with a program
};

ProgramCache::ProgramCache(size_t capacity, Compiler compiler)
    : capacity_(capacity), compiler_(std::move(compiler)) {}

ProgramCache::~ProgramCache() = default;

void ProgramCache::Touch(Slot& slot) { by_use_.splice(by_use_.begin(), by_use_, slot.position); }

void ProgramCache::Evict() {
  while (by_use_.size() > capacity_) {
    slots_.erase(by_use_.back());
    by_use_.pop_back();
  }
}

absl::StatusOr<std::shared_ptr<const CachedProgram>> ProgramCache::Get(
    const spec::Seccomp& profile) {
  const std::string key = CanonicalKey(profile);
  SlotPtr slot;
  {
    const sys::MutexLock lock(&mutex_);
    auto [entry, inserted] = slots_.try_emplace(key);
    if (inserted) entry->second = std::make_shared<Slot>();
    slot = entry->second;
    if (!inserted) {
      while (!slot->finished) done_.Wait(&mutex_);
      if (!slot->failure.ok()) return slot->failure;
      // It may have been evicted while this caller was waiting.
      const auto now = slots_.find(key);
      if (now != slots_.end() && now->second == slot) Touch(*slot);
      return slot->program;
    }
  }
  return CompileInto(key, slot, profile);
}

absl::StatusOr<std::shared_ptr<const CachedProgram>> ProgramCache::CompileInto(
    const std::string& key, const SlotPtr& slot, const spec::Seccomp& profile) {
  auto compile = [&]() -> absl::StatusOr<std::shared_ptr<const CachedProgram>> {
    DAVIT_ASSIGN_OR_RETURN(const Program program, compiler_(profile));
    auto cached = std::make_shared<CachedProgram>();
    DAVIT_ASSIGN_OR_RETURN(cached->memfd, sys::SealedMemfd("seccomp", program.bpf));
    cached->instructions = program.bpf.size() / 8;
    cached->flags = program.flags;
    cached->notifies = program.notifies;
    return cached;
  };
  auto result = compile();
  const sys::MutexLock lock(&mutex_);
  slot->finished = true;
  if (result.ok()) {
    slot->program = *result;
    by_use_.push_front(key);
    slot->position = by_use_.begin();
    Evict();
  } else {
    slot->failure = result.status();
    slots_.erase(key);
  }
  done_.SignalAll();
  return result;
}

}  // namespace davit::runtime::seccomp
