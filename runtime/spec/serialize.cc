#include "runtime/spec/serialize.h"

#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace davit::runtime::spec {
namespace {

// Length of the valid UTF-8 sequence at the start of `s` (RFC 3629), 0 if there is none.
size_t SequenceLength(absl::string_view s) {
  const auto at = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return 1;
  size_t length = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xbf;
  if (lead >= 0xc2 && lead <= 0xdf) {
    length = 2;
  } else if (lead >= 0xe0 && lead <= 0xef) {
    length = 3;
    if (lead == 0xe0) low = 0xa0;
    if (lead == 0xed) high = 0x9f;  // no surrogates
  } else if (lead >= 0xf0 && lead <= 0xf4) {
    length = 4;
    if (lead == 0xf0) low = 0x90;
    if (lead == 0xf4) high = 0x8f;
  }
  if (length == 0 || s.size() < length) return 0;
  if (at(1) < low || at(1) > high) return 0;
  for (size_t i = 2; i < length; ++i) {
    if (at(i) < 0x80 || at(i) > 0xbf) return 0;
  }
  return length;
}

void AppendQuoted(absl::string_view s, std::string* out) {
  out->push_back('"');
  while (!s.empty()) {
    const auto c = static_cast<unsigned char>(s[0]);
    const size_t length = SequenceLength(s);
    if (length == 0) {
      absl::StrAppend(out, "\\udc", absl::Hex(c));
      s.remove_prefix(1);
      continue;
    }
    if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(s[0]);
    } else if (c < 0x20 || c == 0x7f) {
      absl::StrAppend(out, "\\u00", absl::Hex(c, absl::kZeroPad2));
    } else {
      out->append(s.data(), length);
    }
    s.remove_prefix(length);
  }
  out->push_back('"');
}

class Writer {
 public:
  std::string Take() {
    out_.push_back('\n');
    return std::move(out_);
  }

  // Named members; what is empty is left out.
  void Field(const char* key, const std::string& value) {
    if (!value.empty()) Always(key, value);
  }
  template <typename T>
  void Field(const char* key, const std::optional<T>& value) {
    if (value.has_value()) Always(key, *value);
  }
  template <typename T>
  void Field(const char* key, const std::vector<T>& values) {
    if (!values.empty()) Always(key, values);
  }
  void Field(const char* key, const std::map<std::string, std::string>& values) {
    if (!values.empty()) Always(key, values);
  }
  void Field(const char* key, bool value) {
    if (value) Always(key, value);
  }

  template <typename T>
  void Always(const char* key, const T& value) {
    Key(key);
    Value(value);
  }

  template <typename Fn>
  void Object(Fn fill) {
    Open('{');
    fill();
    Close('}');
  }

 private:
  void Value(const std::string& value) { AppendQuoted(value, &out_); }
  void Value(bool value) { out_ += value ? "true" : "false"; }
  template <std::integral T>
  void Value(T value) {
    absl::StrAppend(&out_, value);
  }
  template <typename T>
  void Value(const std::vector<T>& values) {
    Open('[');
    for (const T& value : values) {
      Separate();
      Value(value);
    }
    Close(']');
  }
  void Value(const std::map<std::string, std::string>& values) {
    Object([&] {
      for (const auto& [key, value] : values) Always(key.c_str(), value);
    });
  }

  void Value(const IdMapping& v) {
    Object([&] {
      Always("containerID", v.container_id);
      Always("hostID", v.host_id);
      Always("size", v.size);
    });
  }
  void Value(const Box& v) {
    Object([&] {
      Always("height", v.height);
      Always("width", v.width);
    });
  }
  void Value(const User& v) {
    Object([&] {
      Always("uid", v.uid);
      Always("gid", v.gid);
      Field("umask", v.umask);
      Field("additionalGids", v.additional_gids);
    });
  }
  void Value(const Capabilities& v) {
    Object([&] {
      Field("bounding", v.bounding);
      Field("effective", v.effective);
      Field("inheritable", v.inheritable);
      Field("permitted", v.permitted);
      Field("ambient", v.ambient);
    });
  }
  void Value(const Rlimit& v) {
    Object([&] {
      Always("type", v.type);
      Always("hard", v.hard);
      Always("soft", v.soft);
    });
  }
  void Value(const Process& v) {
    Object([&] {
      Field("terminal", v.terminal);
      Field("consoleSize", v.console_size);
      Always("user", v.user);
      Field("args", v.args);
      Field("env", v.env);
      Always("cwd", v.cwd);
      Field("capabilities", v.capabilities);
      Field("rlimits", v.rlimits);
      Field("noNewPrivileges", v.no_new_privileges);
      Field("apparmorProfile", v.apparmor_profile);
      Field("selinuxLabel", v.selinux_label);
      Field("oomScoreAdj", v.oom_score_adj);
    });
  }
  void Value(const Root& v) {
    Object([&] {
      Always("path", v.path);
      Field("readonly", v.readonly);
    });
  }
  void Value(const Mount& v) {
    Object([&] {
      Always("destination", v.destination);
      Field("type", v.type);
      Field("source", v.source);
      Field("options", v.options);
      Field("uidMappings", v.uid_mappings);
      Field("gidMappings", v.gid_mappings);
    });
  }
  void Value(const Hook& v) {
    Object([&] {
      Always("path", v.path);
      Field("args", v.args);
      Field("env", v.env);
      Field("timeout", v.timeout);
    });
  }
  void Value(const Hooks& v) {
    Object([&] {
      Field("prestart", v.prestart);
      Field("createRuntime", v.create_runtime);
      Field("createContainer", v.create_container);
      Field("startContainer", v.start_container);
      Field("poststart", v.poststart);
      Field("poststop", v.poststop);
    });
  }
  void Value(const Namespace& v) {
    static constexpr const char* kNames[] = {"pid", "network", "mount",  "ipc",
                                             "uts", "user",    "cgroup", "time"};
    Object([&] {
      Always("type", std::string(kNames[static_cast<int>(v.type)]));
      Field("path", v.path);
    });
  }
  void Value(const Device& v) {
    Object([&] {
      Always("path", v.path);
      Always("type", v.type);
      Always("major", v.major);
      Always("minor", v.minor);
      Field("fileMode", v.file_mode);
      Field("uid", v.uid);
      Field("gid", v.gid);
    });
  }
  void Value(const DeviceCgroupRule& v) {
    Object([&] {
      Always("allow", v.allow);
      Field("type", v.type);
      Field("major", v.major);
      Field("minor", v.minor);
      Field("access", v.access);
    });
  }
  void Value(const Memory& v) {
    Object([&] {
      Field("limit", v.limit);
      Field("reservation", v.reservation);
      Field("swap", v.swap);
      Field("swappiness", v.swappiness);
      Field("disableOOMKiller", v.disable_oom_killer);
      Field("useHierarchy", v.use_hierarchy);
      Field("checkBeforeUpdate", v.check_before_update);
    });
  }
  void Value(const Cpu& v) {
    Object([&] {
      Field("shares", v.shares);
      Field("quota", v.quota);
      Field("burst", v.burst);
      Field("period", v.period);
      Field("realtimeRuntime", v.realtime_runtime);
      Field("realtimePeriod", v.realtime_period);
      Field("cpus", v.cpus);
      Field("mems", v.mems);
      Field("idle", v.idle);
    });
  }
  void Value(const HugepageLimit& v) {
    Object([&] {
      Always("pageSize", v.page_size);
      Always("limit", v.limit);
    });
  }
  void Value(const WeightDevice& v) {
    Object([&] {
      Always("major", v.major);
      Always("minor", v.minor);
      Field("weight", v.weight);
      Field("leafWeight", v.leaf_weight);
    });
  }
  void Value(const ThrottleDevice& v) {
    Object([&] {
      Always("major", v.major);
      Always("minor", v.minor);
      Always("rate", v.rate);
    });
  }
  void Value(const BlockIo& v) {
    Object([&] {
      Field("weight", v.weight);
      Field("leafWeight", v.leaf_weight);
      Field("weightDevice", v.weight_device);
      Field("throttleReadBpsDevice", v.throttle_read_bps);
      Field("throttleWriteBpsDevice", v.throttle_write_bps);
      Field("throttleReadIOPSDevice", v.throttle_read_iops);
      Field("throttleWriteIOPSDevice", v.throttle_write_iops);
    });
  }
  void Value(const LinuxResources& v) {
    Object([&] {
      Field("devices", v.devices);
      Field("memory", v.memory);
      Field("cpu", v.cpu);
      if (v.pids_limit.has_value()) {
        Key("pids");
        Object([&] { Always("limit", *v.pids_limit); });
      }
      Field("blockIO", v.block_io);
      Field("hugepageLimits", v.hugepage_limits);
      Field("unified", v.unified);
    });
  }
  void Value(const SeccompArg& v) {
    Object([&] {
      Always("index", v.index);
      Always("value", v.value);
      Always("valueTwo", v.value_two);
      Always("op", v.op);
    });
  }
  void Value(const SeccompRule& v) {
    Object([&] {
      Always("names", v.names);
      Always("action", v.action);
      Field("errnoRet", v.errno_ret);
      Field("args", v.args);
    });
  }
  void Value(const Seccomp& v) {
    Object([&] {
      Always("defaultAction", v.default_action);
      Field("defaultErrnoRet", v.default_errno_ret);
      Field("architectures", v.architectures);
      Field("flags", v.flags);
      Field("listenerPath", v.listener_path);
      Field("listenerMetadata", v.listener_metadata);
      Field("syscalls", v.syscalls);
    });
  }
  void Value(const Linux& v) {
    Object([&] {
      Field("namespaces", v.namespaces);
      Field("uidMappings", v.uid_mappings);
      Field("gidMappings", v.gid_mappings);
      Field("devices", v.devices);
      Field("cgroupsPath", v.cgroups_path);
      Field("resources", v.resources);
      Field("rootfsPropagation", v.rootfs_propagation);
      Field("seccomp", v.seccomp);
      Field("sysctl", v.sysctl);
      Field("maskedPaths", v.masked_paths);
      Field("readonlyPaths", v.readonly_paths);
      Field("mountLabel", v.mount_label);
    });
  }

  void Open(char bracket) {
    out_.push_back(bracket);
    ++depth_;
    first_ = true;
  }
  void Close(char bracket) {
    --depth_;
    if (!first_) NewLine();
    out_.push_back(bracket);
    first_ = false;
  }
  void Separate() {
    if (!first_) out_.push_back(',');
    first_ = false;
    NewLine();
  }
  void Key(absl::string_view key) {
    Separate();
    AppendQuoted(key, &out_);
    out_ += ": ";
  }
  void NewLine() {
    out_.push_back('\n');
    out_.append(static_cast<size_t>(depth_) * 2, ' ');
  }

  std::string out_;
  int depth_ = 0;
  bool first_ = true;
};

}  // namespace

std::string SerializeSpec(const Spec& spec) {
  Writer w;
  w.Object([&] {
    w.Always("ociVersion", spec.oci_version);
    w.Field("process", spec.process);
    w.Always("root", spec.root);
    w.Field("hostname", spec.hostname);
    w.Field("domainname", spec.domainname);
    w.Field("mounts", spec.mounts);
    w.Field("hooks", spec.hooks);
    w.Field("annotations", spec.annotations);
    w.Always("linux", spec.linux_);
  });
  return w.Take();
}

}  // namespace davit::runtime::spec
