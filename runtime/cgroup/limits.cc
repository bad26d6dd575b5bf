#include "runtime/cgroup/limits.h"

#include <fcntl.h>

#include <cerrno>
#include <map>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "runtime/cgroup/tree.h"
#include "runtime/sys/errno.h"
#include "runtime/sys/file.h"

namespace davit::runtime::cgroup {
namespace {

constexpr size_t kMaxFile = 1 << 20;
// v1 shows "no limit" as the largest number of whole pages.
constexpr int64_t kV1Unlimited = int64_t{1} << 60;

bool Ignored(int error, uint32_t flags) {
  switch (error) {
    case 0:
      return true;
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

// "8:0" of "8:0 rbps=1", or empty.
absl::string_view DeviceOf(absl::string_view line) {
  const absl::string_view first = line.substr(0, line.find(' '));
  const size_t colon = first.find(':');
  if (colon == absl::string_view::npos || colon == 0) return "";
  for (const char c : first) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c)) && c != ':') return "";
  }
  return first;
}

std::string UndoForDevice(absl::string_view file, absl::string_view device,
                          absl::string_view written, absl::string_view before) {
  for (absl::string_view line : absl::StrSplit(before, '\n')) {
    if (DeviceOf(line) == device) return std::string(line);
  }
  // The device had no line: back to its default.
  if (absl::StrContains(written, "=")) {
    std::vector<std::string> words = {std::string(device)};
    for (absl::string_view word :
         absl::StrSplit(written.substr(device.size()), ' ', absl::SkipEmpty())) {
      words.push_back(absl::StrCat(word.substr(0, word.find('=')), "=max"));
    }
    return absl::StrJoin(words, " ");
  }
  return absl::StrCat(device, absl::StartsWith(file, "io.") ? " default" : " 0");
}

std::optional<int64_t> Number(absl::string_view text) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

// A file of the group in the hierarchy of `controller`, without surrounding space; empty if there
// is none.
std::string ReadControl(const Layout& layout, int hierarchy, absl::string_view group,
                        absl::string_view file) {
  const auto text = sys::ReadFileAt(
      AT_FDCWD, absl::StrCat(layout.Directory(hierarchy, group), "/", file), kMaxFile);
  return text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : "";
}

std::optional<int64_t> Limit(const std::string& text) {
  const std::optional<int64_t> value = Number(text);
  if (value.has_value() && (*value < 0 || *value >= kV1Unlimited)) return std::nullopt;
  return value;
}

}  // namespace

std::string UndoValue(absl::string_view file, absl::string_view written, absl::string_view before) {
  before = absl::StripAsciiWhitespace(before);
  if (file == "memory.oom_control") {
    return absl::StrContains(before, "oom_kill_disable 1") ? "1" : "0";
  }
  const absl::string_view device = DeviceOf(written);
  if (!device.empty()) return UndoForDevice(file, device, written, before);
  if (absl::StartsWith(written, "default ")) {
    for (absl::string_view line : absl::StrSplit(before, '\n')) {
      if (absl::StartsWith(line, "default ")) return std::string(line);
    }
    // io.bfq.weight and older files show the bare number.
    return absl::StrCat("default ", before);
  }
  // An empty write does not reach the kernel; a newline empties a list.
  return before.empty() ? "\n" : std::string(before);
}

absl::Status ExecuteWrites(const Layout& layout, absl::string_view group,
                           std::span<const Write> writes, std::vector<Write>* undo) {
  std::map<int, sys::UniqueFd> directories;
  for (const Write& write : writes) {
    sys::UniqueFd& directory = directories[write.hierarchy];
    if (!directory.ok()) {
      DAVIT_ASSIGN_OR_RETURN(directory,
                             sys::OpenDirAt(AT_FDCWD, layout.Directory(write.hierarchy, group)));
    }
    absl::StatusOr<std::string> before = std::string();
    if (undo != nullptr) before = sys::ReadFileAt(directory.get(), write.file, kMaxFile);
    const int error = WriteGroupFile(directory.get(), write.file, write.value);
    if (!Ignored(error, write.flags)) {
      return sys::ErrnoStatus(
          error, absl::StrCat("write \"", write.value, "\" to ",
                              layout.Directory(write.hierarchy, group), "/", write.file));
    }
    if (error == 0 && undo != nullptr && before.ok()) {
      undo->insert(undo->begin(), {write.hierarchy, write.file,
                                   UndoValue(write.file, write.value, *before), kWriteStrict});
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CurrentLimits> ReadCurrentLimits(const Layout& layout, absl::string_view group) {
  CurrentLimits limits;
  if (const int memory = layout.Find("memory"); memory >= 0) {
    DAVIT_RETURN_IF_ERROR(sys::OpenDirAt(AT_FDCWD, layout.Directory(memory, group)).status());
    if (layout.hierarchies[static_cast<size_t>(memory)].is_v2) {
      limits.memory = Limit(ReadControl(layout, memory, group, "memory.max"));
      const auto swap = Limit(ReadControl(layout, memory, group, "memory.swap.max"));
      if (limits.memory && swap) limits.memory_and_swap = *limits.memory + *swap;
    } else {
      limits.memory = Limit(ReadControl(layout, memory, group, "memory.limit_in_bytes"));
      limits.memory_and_swap =
          Limit(ReadControl(layout, memory, group, "memory.memsw.limit_in_bytes"));
    }
  }
  if (const int cpu = layout.Find("cpu"); cpu >= 0) {
    std::optional<int64_t> period;
    if (layout.hierarchies[static_cast<size_t>(cpu)].is_v2) {
      const std::string text = ReadControl(layout, cpu, group, "cpu.max");
      const std::vector<absl::string_view> words = absl::StrSplit(text, ' ');
      if (words.size() == 2) {
        limits.cpu_quota = Limit(std::string(words[0]));
        period = Number(words[1]);
      }
    } else {
      limits.cpu_quota = Limit(ReadControl(layout, cpu, group, "cpu.cfs_quota_us"));
      period = Number(ReadControl(layout, cpu, group, "cpu.cfs_period_us"));
    }
    if (period.value_or(0) > 0) limits.cpu_period = static_cast<uint64_t>(*period);
  }
  return limits;
}

}  // namespace davit::runtime::cgroup
