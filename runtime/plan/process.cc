#include <sys/resource.h>

#include <algorithm>
#include <optional>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/plan/context.h"
#include "runtime/sys/capability.h"

namespace davit::runtime::plan {
namespace {

constexpr char kDefaultPath[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

struct RlimitName {
  const char* name;
  int resource;
};
constexpr RlimitName kRlimits[] = {
    {"RLIMIT_AS", RLIMIT_AS},
    {"RLIMIT_CORE", RLIMIT_CORE},
    {"RLIMIT_CPU", RLIMIT_CPU},
    {"RLIMIT_DATA", RLIMIT_DATA},
    {"RLIMIT_FSIZE", RLIMIT_FSIZE},
    {"RLIMIT_LOCKS", RLIMIT_LOCKS},
    {"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
    {"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
    {"RLIMIT_NICE", RLIMIT_NICE},
    {"RLIMIT_NOFILE", RLIMIT_NOFILE},
    {"RLIMIT_NPROC", RLIMIT_NPROC},
    {"RLIMIT_RSS", RLIMIT_RSS},
    {"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
    {"RLIMIT_RTTIME", RLIMIT_RTTIME},
    {"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
    {"RLIMIT_STACK", RLIMIT_STACK},
};

// A limit as it can be set: no higher than the daemon's own where that cannot be raised.
absl::StatusOr<std::vector<Op>> Rlimits(const spec::Process& process, const ProcessInputs& inputs,
                                        CompiledPlan* result) {
  std::vector<Op> ops;
  for (const spec::Rlimit& limit : process.rlimits) {
    const auto* known = std::find_if(std::begin(kRlimits), std::end(kRlimits),
                                     [&](const RlimitName& r) { return limit.type == r.name; });
    if (known == std::end(kRlimits)) {
      return absl::InvalidArgumentError(
          absl::StrCat("process.rlimits: ", limit.type, " is not known"));
    }
    uint64_t soft = limit.soft;
    uint64_t hard = limit.hard;
    for (const spec::Rlimit& ceiling : *inputs.rlimit_ceiling) {
      if (ceiling.type != limit.type || hard <= ceiling.hard) continue;
      if (result != nullptr) {
        result->warnings.push_back(absl::StrCat(limit.type, ": the hard limit ", hard,
                                                " is lowered to the runtime's own, ",
                                                ceiling.hard));
      }
      hard = ceiling.hard;
      soft = std::min(soft, hard);
    }
    ops.push_back(Op{
        .code = Code::kRlimit, .x = static_cast<uint64_t>(known->resource), .y = soft, .z = hard});
  }
  return ops;
}

struct CapabilitySets {
  uint64_t bounding = 0;
  uint64_t effective = 0;
  uint64_t permitted = 0;
  uint64_t inheritable = 0;
  uint64_t ambient = 0;
};

// The kernel's rules between the sets (man 7 capabilities): what breaks them is dropped with a
// warning, since capset would refuse everything.
CapabilitySets Capabilities(const spec::Process& process, const ProcessInputs& inputs,
                            CompiledPlan* result) {
  CapabilitySets sets;
  if (!process.capabilities.has_value()) return sets;
  const spec::Capabilities& spec = *process.capabilities;
  std::vector<std::string> unknown;
  uint64_t refused = 0;
  const auto convert = [&](const std::vector<std::string>& names) {
    uint64_t set = 0;
    for (const std::string& name : names) {
      const std::optional<int> number = sys::CapabilityNumber(name);
      if (!number.has_value()) {
        if (std::find(unknown.begin(), unknown.end(), name) == unknown.end())
          unknown.push_back(name);
        continue;
      }
      set |= sys::CapabilityBit(*number);
    }
    refused |= set & ~inputs.capability_ceiling;
    return set & inputs.capability_ceiling;
  };
  sets.bounding = convert(spec.bounding);
  sets.permitted = convert(spec.permitted);
  sets.effective = convert(spec.effective);
  sets.inheritable = convert(spec.inheritable);
  sets.ambient = convert(spec.ambient);
  if (!unknown.empty()) {
    result->warnings.push_back(
        absl::StrCat("unknown capabilities are ignored: ", absl::StrJoin(unknown, ", ")));
  }
  if (refused != 0) {
    result->warnings.push_back(
        absl::StrCat("capabilities that the runtime itself lacks are dropped: ",
                     absl::StrJoin(sys::CapabilityNames(refused), ", ")));
  }
  const auto restrict = [&](uint64_t* set, uint64_t to, const char* what) {
    const uint64_t dropped = *set & ~to;
    if (dropped == 0) return;
    *set &= to;
    result->warnings.push_back(
        absl::StrCat(what, ": ", absl::StrJoin(sys::CapabilityNames(dropped), ", ")));
  };
  restrict(&sets.effective, sets.permitted, "effective capabilities that are not permitted");
  restrict(&sets.inheritable, sets.bounding, "inheritable capabilities outside the bounding set");
  restrict(&sets.ambient, sets.permitted & sets.inheritable,
           "ambient capabilities that are not permitted and inheritable");
  return sets;
}

// The last value of a name wins, as a shell's would; getenv takes the first, so only one may stay.
std::vector<std::string> Environment(const std::vector<std::string>& environment) {
  std::vector<std::string> result;
  std::map<std::string, size_t> index;
  for (const std::string& entry : environment) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos) {
      result.push_back(entry);
      continue;
    }
    const auto [at, inserted] = index.emplace(entry.substr(0, equals), result.size());
    if (inserted) {
      result.push_back(entry);
    } else {
      result[at->second] = entry;
    }
  }
  return result;
}

std::string SearchPath(const std::vector<std::string>& environment) {
  for (const std::string& entry : environment) {
    if (absl::StartsWith(entry, "PATH=")) return entry.substr(5);
  }
  return kDefaultPath;
}

absl::Status CheckText(const spec::Process& process) {
  if (process.args.empty()) return absl::InvalidArgumentError("process.args is empty");
  if (process.args[0].empty()) return absl::InvalidArgumentError("process.args[0] is empty");
  for (const std::vector<std::string>* list : {&process.args, &process.env}) {
    for (const std::string& item : *list) {
      if (item.find('\0') != std::string::npos) {
        return absl::InvalidArgumentError(
            absl::StrCat(list == &process.args ? "process.args" : "process.env",
                         ": an item contains a NUL byte"));
      }
    }
  }
  if (process.cwd.empty() || process.cwd[0] != '/' || process.cwd.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("process.cwd must be an absolute path");
  }
  return absl::OkStatus();
}

// A label that was asked for and is not there would be protection lost silently.
absl::Status CheckLabels(const spec::Process& process) {
  if (!process.apparmor_profile.empty() && process.apparmor_profile != "unconfined") {
    return absl::FailedPreconditionError(absl::StrCat(
        "process.apparmorProfile: ", process.apparmor_profile, ": AppArmor is not available"));
  }
  if (!process.selinux_label.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "process.selinuxLabel: ", process.selinux_label, ": SELinux is not available"));
  }
  return absl::OkStatus();
}

void AddIds(Builder& builder, const spec::User& user) {
  Op& op = builder.Child(Code::kIds);
  op.x = user.uid;
  op.y = user.gid;
  op.s =
      builder.String(absl::string_view(reinterpret_cast<const char*>(user.additional_gids.data()),
                                       user.additional_gids.size() * sizeof(uint32_t)));
}

}  // namespace

absl::Status CompileProcessBegin(Builder& builder, const spec::Process& process,
                                 const ProcessInputs& inputs, CompiledPlan& result) {
  absl::Status status = CheckText(process);
  if (status.ok()) status = CheckLabels(process);
  if (!status.ok()) return status;
  if (!process.terminal) {
    Op& stdio = builder.Child(Code::kStdio);
    stdio.a = kStdin;
    stdio.b = kStdout;
    stdio.c = kStderr;
    stdio.x = inputs.host_uid == UINT32_MAX ? UINT64_MAX : inputs.host_uid;
  }
  if (process.oom_score_adj.has_value()) {
    const int value = std::max(*process.oom_score_adj, inputs.oom_score_adj_floor);
    if (value != *process.oom_score_adj) {
      result.warnings.push_back(absl::StrCat("oom_score_adj ", *process.oom_score_adj,
                                             " is raised to the lowest that the runtime may set, ",
                                             value));
    }
    result.oom_score_adj = value;
    builder.Child(Code::kOomScoreAdj).s = builder.String(absl::StrCat(value));
  }
  if (inputs.user_namespace) {
    // Raising a hard limit takes CAP_SYS_RESOURCE in the initial user namespace.
    absl::StatusOr<std::vector<Op>> limits = Rlimits(process, inputs, nullptr);
    if (!limits.ok()) return limits.status();
    for (Op op : *limits) {
      op.flags = kRaiseOnly;
      builder.Child(Code::kRlimit) = op;
    }
  }
  return absl::OkStatus();
}

absl::Status CompileProcessEnd(Builder& builder, const spec::Process& process,
                               const ProcessInputs& inputs, CompiledPlan& result) {
  if (!inputs.keyring.empty()) builder.Child(Code::kKeyring).s = builder.String(inputs.keyring);
  builder.Child(Code::kNewSession);
  // From here on nothing of the host can be reached through a descriptor.
  builder.Child(Code::kCloseFds);
  builder.Child(Code::kChangeDirectory).s = builder.String(process.cwd);
  absl::StatusOr<std::vector<Op>> limits = Rlimits(process, inputs, &result);
  if (!limits.ok()) return limits.status();
  for (const Op& op : *limits) builder.Child(Code::kRlimit) = op;
  builder.Child(Code::kUmask).x = process.user.umask.value_or(0022);

  const auto seccomp = [&] {
    if (!inputs.has_seccomp) return;
    Op& op = builder.Child(Code::kSeccomp);
    op.a = kSeccompProgram;
    op.x = inputs.seccomp_flags;
  };
  // Without no_new_privs loading a filter takes CAP_SYS_ADMIN, so it comes before the capabilities
  // go; with it, as late as possible, so that the filter need not allow what set-up takes.
  if (!process.no_new_privileges) seccomp();
  const CapabilitySets sets = Capabilities(process, inputs, &result);
  builder.Child(Code::kBounding).x = sets.bounding;
  AddIds(builder, process.user);
  Op& capabilities = builder.Child(Code::kCapabilities);
  capabilities.x = sets.effective;
  capabilities.y = sets.permitted;
  capabilities.z = sets.inheritable;
  capabilities.w = sets.ambient;
  builder.Child(Code::kCheckDirectory).s = builder.String(process.cwd);
  if (process.no_new_privileges) builder.Child(Code::kNoNewPrivileges);
  if (inputs.kind == Kind::kContainer) builder.Child(Code::kReady);
  if (process.no_new_privileges) seccomp();

  const std::vector<std::string> environment = Environment(process.env);
  Op& exec = builder.Child(Code::kExec);
  exec.s = builder.List(process.args);
  exec.t = builder.List(environment);
  exec.u = builder.String(SearchPath(environment));
  builder.header().terminal = process.terminal ? 1 : 0;
  return absl::OkStatus();
}

}  // namespace davit::runtime::plan
