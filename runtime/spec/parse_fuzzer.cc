// Any bytes as a config.json.

#include "runtime/spec/parse.h"
#include "runtime/spec/serialize.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  return {
      R"({"ociVersion":"1.0.2","process":{"terminal":true,"consoleSize":{"height":24,"width":80},)"
      R"("user":{"uid":1,"gid":2,"umask":18,"additionalGids":[3,4]},"args":["sh","-c","true"],)"
      R"("env":["PATH=/bin","A=\u00e9"],"cwd":"/","capabilities":{"bounding":["CAP_KILL"],)"
      R"("effective":["CAP_KILL"],"permitted":[],"inheritable":[],"ambient":[]},"rlimits":)"
      R"([{"type":"RLIMIT_NOFILE","hard":1024,"soft":512}],"noNewPrivileges":true,)"
      R"("oomScoreAdj":-5,"apparmorProfile":"p","selinuxLabel":"l"},"root":{"path":"rootfs",)"
      R"("readonly":true},"hostname":"h","domainname":"d"})",
      R"({"ociVersion":"1.1.0","root":{"path":"/r"},"mounts":[{"destination":"/proc","type":"proc",)"
      R"("source":"proc","options":["nosuid","ro"]},{"destination":"/m","type":"bind","source":"/s",)"
      R"("options":["rbind","ridmap"],"uidMappings":[{"containerID":0,"hostID":1000,"size":1}],)"
      R"("gidMappings":[{"containerID":0,"hostID":1000,"size":1}]}],"annotations":{"a":"b"},)"
      R"("hooks":{"prestart":[{"path":"/h","args":["h"],"env":[],"timeout":5}],"poststop":[]}})",
      R"({"ociVersion":"1.2.0","linux":{"namespaces":[{"type":"pid"},{"type":"network","path":)"
      R"("/run/netns/a"},{"type":"user"},{"type":"time"}],"uidMappings":[{"containerID":0,"hostID":)"
      R"(100000,"size":65536}],"gidMappings":[{"containerID":0,"hostID":100000,"size":65536}],)"
      R"("devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229,"fileMode":438,"uid":0,)"
      R"("gid":0}],"cgroupsPath":"/a/b","sysctl":{"net.ipv4.ip_forward":"1"},"rootfsPropagation":)"
      R"("rslave","maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],"mountLabel":"m",)"
      R"("personality":{"domain":"LINUX32"},"timeOffsets":{"monotonic":{"secs":1,"nanosecs":2}}}})",
      R"({"ociVersion":"1.0.0","linux":{"resources":{"devices":[{"allow":false,"access":"rwm"},)"
      R"({"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}],"memory":{"limit":1048576,)"
      R"("reservation":-1,"swap":2097152,"swappiness":60,"disableOOMKiller":false},"cpu":{"shares":)"
      R"(1024,"quota":50000,"period":100000,"burst":0,"cpus":"0-1,3","mems":"0","idle":1},"pids":)"
      R"({"limit":10},"hugepageLimits":[{"pageSize":"2MB","limit":0}],"blockIO":{"weight":10,)"
      R"("throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}]},"unified":{"memory.high":"1"}},)"
      R"("intelRdt":{"closID":"c"},"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,)"
      R"("architectures":["SCMP_ARCH_X86_64"],"flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":)"
      R"([{"names":["read","clone"],"action":"SCMP_ACT_ALLOW","errnoRet":38,"args":[{"index":0,)"
      R"("value":18446744073709551615,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}}})",
  };
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace spec = davit::runtime::spec;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  (void)spec::ParseProcess(text);
  const auto parsed = spec::ParseSpec(text);
  if (!parsed.ok()) return 0;
  // What was understood can be written down and is understood the same way again.
  const std::string written = spec::SerializeSpec(*parsed);
  const auto again = spec::ParseSpec(written);
  DAVIT_FUZZ_CHECK(again.ok());
  DAVIT_FUZZ_CHECK(spec::SerializeSpec(*again) == written);
  return 0;
}
