#include "runtime/spec/parse.h"

#include <set>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "runtime/spec/decode.h"
#include "runtime/spec/json_reader.h"

namespace davit::runtime::spec {
// One Read a type, found by argument-dependent lookup from the templates of decode.h (hence in this
// namespace, not an anonymous one).

static void Read(const Cursor& at, IdMapping* out) {
  if (!IsObject(at)) return;
  Required(at, "containerID", &out->container_id);
  Required(at, "hostID", &out->host_id);
  Required(at, "size", &out->size);
}

static void Read(const Cursor& at, Box* out) {
  if (!IsObject(at)) return;
  Required(at, "height", &out->height);
  Required(at, "width", &out->width);
}

static void Read(const Cursor& at, User* out) {
  if (!IsObject(at)) return;
  Field(at, "uid", &out->uid);
  Field(at, "gid", &out->gid);
  Field(at, "umask", &out->umask);
  if (out->umask.value_or(0) > 0777) at.Fail("umask is out of range (0 to 511)");
  Field(at, "additionalGids", &out->additional_gids);
  // (uid_t)-1 means "unchanged" to the kernel: as an id it would leave the process root.
  if (out->uid == UINT32_MAX || out->gid == UINT32_MAX) at.Fail("4294967295 is not an id");
}

static void Read(const Cursor& at, Capabilities* out) {
  if (!IsObject(at)) return;
  Field(at, "bounding", &out->bounding);
  Field(at, "effective", &out->effective);
  Field(at, "inheritable", &out->inheritable);
  Field(at, "permitted", &out->permitted);
  Field(at, "ambient", &out->ambient);
}

static void Read(const Cursor& at, Rlimit* out) {
  if (!IsObject(at)) return;
  Required(at, "type", &out->type);
  CheckEnum(
      at, "type", out->type,
      {"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS",
       "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC",
       "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK"});
  Required(at, "soft", &out->soft);
  Required(at, "hard", &out->hard);
  if (out->soft > out->hard) at.Fail("soft is above hard");
}

static void Read(const Cursor& at, Process* out) {
  if (!IsObject(at)) return;
  Field(at, "terminal", &out->terminal);
  Field(at, "consoleSize", &out->console_size);
  Field(at, "user", &out->user);
  Field(at, "args", &out->args);
  Field(at, "env", &out->env);
  Required(at, "cwd", &out->cwd);
  if (!absl::StartsWith(out->cwd, "/")) at.Fail("cwd must be an absolute path");
  Field(at, "capabilities", &out->capabilities);
  Field(at, "rlimits", &out->rlimits);
  std::set<std::string> types;
  for (const Rlimit& limit : out->rlimits) {
    if (!types.insert(limit.type).second) {
      at.Fail(absl::StrCat("rlimits has ", limit.type, " twice"));
    }
  }
  Field(at, "noNewPrivileges", &out->no_new_privileges);
  Field(at, "apparmorProfile", &out->apparmor_profile);
  Field(at, "selinuxLabel", &out->selinux_label);
  Field(at, "oomScoreAdj", &out->oom_score_adj);
  if (out->oom_score_adj.value_or(0) < -1000 || out->oom_score_adj.value_or(0) > 1000) {
    at.Fail("oomScoreAdj is out of range (-1000 to 1000)");
  }
}

static void Read(const Cursor& at, Root* out) {
  if (!IsObject(at)) return;
  Required(at, "path", &out->path);
  Field(at, "readonly", &out->readonly);
}

static void Read(const Cursor& at, Mount* out) {
  if (!IsObject(at)) return;
  Required(at, "destination", &out->destination);
  if (out->destination.empty()) at.Fail("destination is empty");
  Field(at, "type", &out->type);
  Field(at, "source", &out->source);
  Field(at, "options", &out->options);
  Field(at, "uidMappings", &out->uid_mappings);
  Field(at, "gidMappings", &out->gid_mappings);
}

static void Read(const Cursor& at, Hook* out) {
  if (!IsObject(at)) return;
  Required(at, "path", &out->path);
  if (!absl::StartsWith(out->path, "/")) at.Fail("path must be absolute");
  Field(at, "args", &out->args);
  Field(at, "env", &out->env);
  Field(at, "timeout", &out->timeout);
  if (out->timeout.has_value() && *out->timeout <= 0) at.Fail("timeout must be above zero");
}

static void Read(const Cursor& at, Hooks* out) {
  if (!IsObject(at)) return;
  Field(at, "prestart", &out->prestart);
  Field(at, "createRuntime", &out->create_runtime);
  Field(at, "createContainer", &out->create_container);
  Field(at, "startContainer", &out->start_container);
  Field(at, "poststart", &out->poststart);
  Field(at, "poststop", &out->poststop);
}

static void Read(const Cursor& at, NamespaceType* out) {
  std::string name;
  Read(at, &name);
  if (name == "pid") {
    *out = NamespaceType::kPid;
  } else if (name == "network") {
    *out = NamespaceType::kNetwork;
  } else if (name == "mount") {
    *out = NamespaceType::kMount;
  } else if (name == "ipc") {
    *out = NamespaceType::kIpc;
  } else if (name == "uts") {
    *out = NamespaceType::kUts;
  } else if (name == "user") {
    *out = NamespaceType::kUser;
  } else if (name == "cgroup") {
    *out = NamespaceType::kCgroup;
  } else if (name == "time") {
    *out = NamespaceType::kTime;
  } else {
    at.Fail(absl::StrCat("\"", name, "\" is not a known value"));
  }
}

static void Read(const Cursor& at, Namespace* out) {
  if (!IsObject(at)) return;
  Required(at, "type", &out->type);
  Field(at, "path", &out->path);
  if (!out->path.empty() && out->path[0] != '/') at.Fail("path must be absolute");
}

static void Read(const Cursor& at, Device* out) {
  if (!IsObject(at)) return;
  Required(at, "path", &out->path);
  if (!absl::StartsWith(out->path, "/")) at.Fail("path must be absolute");
  Required(at, "type", &out->type);
  CheckEnum(at, "type", out->type, {"c", "b", "u", "p"});
  const bool numbered = out->type != "p";
  if (numbered && at.value().Find("major") == nullptr) at.Fail("lacks the required field major");
  if (numbered && at.value().Find("minor") == nullptr) at.Fail("lacks the required field minor");
  Field(at, "major", &out->major);
  Field(at, "minor", &out->minor);
  if (out->major < 0 || out->major > 0xfff) at.Fail("major is out of range (0 to 4095)");
  if (out->minor < 0 || out->minor > 0xfffff) at.Fail("minor is out of range (0 to 1048575)");
  Field(at, "fileMode", &out->file_mode);
  if (out->file_mode.value_or(0) > 0177777) at.Fail("fileMode is out of range");
  Field(at, "uid", &out->uid);
  Field(at, "gid", &out->gid);
}

static void Read(const Cursor& at, DeviceCgroupRule* out) {
  if (!IsObject(at)) return;
  Required(at, "allow", &out->allow);
  Field(at, "type", &out->type);
  CheckEnum(at, "type", out->type, {"", "a", "c", "b"});
  Field(at, "major", &out->major);
  Field(at, "minor", &out->minor);
  Field(at, "access", &out->access);
  for (const char c : out->access) {
    if (c != 'r' && c != 'w' && c != 'm') at.Fail("access holds letters other than r, w and m");
  }
}

static void Read(const Cursor& at, Memory* out) {
  if (!IsObject(at)) return;
  Field(at, "limit", &out->limit);
  Field(at, "reservation", &out->reservation);
  Field(at, "swap", &out->swap);
  Field(at, "swappiness", &out->swappiness);
  if (out->swappiness.value_or(0) > 100) at.Fail("swappiness is out of range (0 to 100)");
  Field(at, "disableOOMKiller", &out->disable_oom_killer);
  Field(at, "useHierarchy", &out->use_hierarchy);
  Field(at, "checkBeforeUpdate", &out->check_before_update);
}

static void Read(const Cursor& at, Cpu* out) {
  if (!IsObject(at)) return;
  Field(at, "shares", &out->shares);
  Field(at, "quota", &out->quota);
  Field(at, "burst", &out->burst);
  Field(at, "period", &out->period);
  Field(at, "realtimeRuntime", &out->realtime_runtime);
  Field(at, "realtimePeriod", &out->realtime_period);
  Field(at, "cpus", &out->cpus);
  Field(at, "mems", &out->mems);
  Field(at, "idle", &out->idle);
}

static void Read(const Cursor& at, HugepageLimit* out) {
  if (!IsObject(at)) return;
  Required(at, "pageSize", &out->page_size);
  Required(at, "limit", &out->limit);
}

static void Read(const Cursor& at, WeightDevice* out) {
  if (!IsObject(at)) return;
  Required(at, "major", &out->major);
  Required(at, "minor", &out->minor);
  Field(at, "weight", &out->weight);
  Field(at, "leafWeight", &out->leaf_weight);
}

static void Read(const Cursor& at, ThrottleDevice* out) {
  if (!IsObject(at)) return;
  Required(at, "major", &out->major);
  Required(at, "minor", &out->minor);
  Required(at, "rate", &out->rate);
}

static void Read(const Cursor& at, BlockIo* out) {
  if (!IsObject(at)) return;
  Field(at, "weight", &out->weight);
  Field(at, "leafWeight", &out->leaf_weight);
  Field(at, "weightDevice", &out->weight_device);
  Field(at, "throttleReadBpsDevice", &out->throttle_read_bps);
  Field(at, "throttleWriteBpsDevice", &out->throttle_write_bps);
  Field(at, "throttleReadIOPSDevice", &out->throttle_read_iops);
  Field(at, "throttleWriteIOPSDevice", &out->throttle_write_iops);
}

static void Read(const Cursor& at, LinuxResources* out) {
  if (!IsObject(at)) return;
  Field(at, "devices", &out->devices);
  Field(at, "memory", &out->memory);
  Field(at, "cpu", &out->cpu);
  const JsonValue* pids = at.value().Find("pids");
  if (pids != nullptr && pids->type != JsonValue::Type::kNull) {
    const Cursor child(*pids, at, "pids");
    if (IsObject(child)) Field(child, "limit", &out->pids_limit);
  }
  Field(at, "blockIO", &out->block_io);
  Field(at, "hugepageLimits", &out->hugepage_limits);
  Field(at, "unified", &out->unified);
  for (const auto& [file, value] : out->unified) {
    if (file.empty() || file[0] == '.' || absl::StrContains(file, "/")) {
      at.Fail(absl::StrCat("unified: \"", file, "\" is not the name of a cgroup file"));
    }
  }
}

static void CheckAction(const Cursor& at, absl::string_view key, const std::string& action) {
  CheckEnum(
      at, key, action,
      {"SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP",
       "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY"});
}

static void Read(const Cursor& at, SeccompArg* out) {
  if (!IsObject(at)) return;
  Required(at, "index", &out->index);
  if (out->index > 5) at.Fail("index is out of range (0 to 5)");
  Required(at, "value", &out->value);
  Field(at, "valueTwo", &out->value_two);
  Required(at, "op", &out->op);
  CheckEnum(at, "op", out->op,
            {"SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE",
             "SCMP_CMP_GT", "SCMP_CMP_MASKED_EQ"});
}

static void Read(const Cursor& at, SeccompRule* out) {
  if (!IsObject(at)) return;
  Required(at, "names", &out->names);
  if (out->names.empty()) at.Fail("names is empty");
  Required(at, "action", &out->action);
  CheckAction(at, "action", out->action);
  Field(at, "errnoRet", &out->errno_ret);
  Field(at, "args", &out->args);
}

static void Read(const Cursor& at, Seccomp* out) {
  if (!IsObject(at)) return;
  Required(at, "defaultAction", &out->default_action);
  CheckAction(at, "defaultAction", out->default_action);
  Field(at, "defaultErrnoRet", &out->default_errno_ret);
  Field(at, "architectures", &out->architectures);
  Field(at, "flags", &out->flags);
  Field(at, "listenerPath", &out->listener_path);
  Field(at, "listenerMetadata", &out->listener_metadata);
  Field(at, "syscalls", &out->syscalls);
}

static void Read(const Cursor& at, Linux* out) {
  if (!IsObject(at)) return;
  Field(at, "namespaces", &out->namespaces);
  std::set<NamespaceType> types;
  for (const Namespace& ns : out->namespaces) {
    if (!types.insert(ns.type).second) at.Fail("namespaces has a type twice");
  }
  Field(at, "uidMappings", &out->uid_mappings);
  Field(at, "gidMappings", &out->gid_mappings);
  Field(at, "devices", &out->devices);
  Field(at, "cgroupsPath", &out->cgroups_path);
  Field(at, "resources", &out->resources);
  Field(at, "rootfsPropagation", &out->rootfs_propagation);
  CheckEnum(at, "rootfsPropagation", out->rootfs_propagation,
            {"", "shared", "slave", "private", "unbindable"});
  Field(at, "seccomp", &out->seccomp);
  Field(at, "sysctl", &out->sysctl);
  Field(at, "maskedPaths", &out->masked_paths);
  Field(at, "readonlyPaths", &out->readonly_paths);
  Field(at, "mountLabel", &out->mount_label);
}

static void Read(const Cursor& at, Spec* out) {
  if (!IsObject(at)) return;
  Required(at, "ociVersion", &out->oci_version);
  // Any 1.x: a newer minor version only adds fields.
  if (!absl::StartsWith(out->oci_version, "1.")) {
    at.Fail(absl::StrCat("ociVersion: \"", out->oci_version, "\" is not a 1.x version"));
  }
  Field(at, "process", &out->process);
  Field(at, "root", &out->root);
  Field(at, "hostname", &out->hostname);
  Field(at, "domainname", &out->domainname);
  Field(at, "mounts", &out->mounts);
  Field(at, "hooks", &out->hooks);
  Field(at, "annotations", &out->annotations);
  Field(at, "linux", &out->linux_);
}

namespace {

template <typename T>
absl::StatusOr<T> Parse(absl::string_view json) {
  absl::StatusOr<JsonValue> document = ReadJson(json, kMaxSpecBytes, kMaxSpecDepth);
  if (!document.ok()) return document.status();
  absl::Status status;
  T value;
  Read(Cursor(*document, &status), &value);
  if (!status.ok()) return status;
  return value;
}

}  // namespace

absl::StatusOr<Spec> ParseSpec(absl::string_view json) { return Parse<Spec>(json); }
absl::StatusOr<Process> ParseProcess(absl::string_view json) { return Parse<Process>(json); }

}  // namespace davit::runtime::spec
