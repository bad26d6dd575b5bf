#include "runtime/spec/parse.h"

#include <gtest/gtest.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "runtime/spec/serialize.h"

namespace davit::runtime::spec {
namespace {

constexpr char kFull[] = R"({
  "ociVersion": "1.3.0",
  "futureField": {"anything": [1, 2.5, null]},
  "process": {
    "terminal": true, "consoleSize": {"height": 25, "width": 80},
    "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [3, 4]},
    "args": ["sh", "-c", "true"], "env": ["PATH=/bin", "A=b"], "cwd": "/work",
    "capabilities": {"bounding": ["CAP_CHOWN"], "effective": ["CAP_CHOWN"], "permitted": ["CAP_CHOWN"],
                     "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 18446744073709551615}],
    "noNewPrivileges": true, "apparmorProfile": "p", "selinuxLabel": "l", "oomScoreAdj": -7
  },
  "root": {"path": "rootfs", "readonly": true},
  "hostname": "h", "domainname": "d",
  "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"],
              "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 5}],
              "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 5}]}],
  "hooks": {"prestart": [{"path": "/a", "args": ["a"], "env": ["b=c"], "timeout": 3}],
            "createRuntime": [{"path": "/b"}], "createContainer": [{"path": "/c"}],
            "startContainer": [{"path": "/d"}], "poststart": [{"path": "/e"}],
            "poststop": [{"path": "/f"}]},
  "annotations": {"k": "v"},
  "linux": {
    "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/x"}, {"type": "mount"},
                   {"type": "ipc"}, {"type": "uts"}, {"type": "user"}, {"type": "cgroup"}, {"type": "time"}],
    "uidMappings": [{"containerID": 0, "hostID": 65536, "size": 65536}],
    "gidMappings": [{"containerID": 0, "hostID": 65536, "size": 65536}],
    "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 1, "gid": 2}],
    "cgroupsPath": "/a/b",
    "resources": {
      "devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": -1, "minor": 5, "access": "r"}],
      "memory": {"limit": 1, "reservation": 2, "swap": -1, "swappiness": 60, "disableOOMKiller": true,
                 "useHierarchy": true, "checkBeforeUpdate": true},
      "cpu": {"shares": 2, "quota": -1, "burst": 5, "period": 100000, "realtimeRuntime": 3,
              "realtimePeriod": 4, "cpus": "0-1", "mems": "0", "idle": 1},
      "pids": {"limit": 100},
      "blockIO": {"weight": 10, "leafWeight": 11, "weightDevice": [{"major": 8, "minor": 0, "weight": 5, "leafWeight": 6}],
                  "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
                  "throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 601}],
                  "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 602}],
                  "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 603}]},
      "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
      "unified": {"memory.high": "1000"}
    },
    "rootfsPropagation": "slave",
    "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": "/s", "listenerMetadata": "m",
                "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW", "errnoRet": 1,
                              "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_EQ"}]}]},
    "sysctl": {"net.ipv4.ip_forward": "1"},
    "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "mountLabel": "ml"
  }
})";

std::string Error(absl::string_view json) {
  absl::StatusOr<Spec> spec = ParseSpec(json);
  if (spec.ok()) return "ok";
  EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(spec.status().message());
}

std::string Minimal(absl::string_view members) {
  return absl::StrCat(R"({"ociVersion": "1.0.2", )", members, "}");
}

TEST(ParseSpecTest, ReadsEveryField) {
  absl::StatusOr<Spec> spec = ParseSpec(kFull);
  ASSERT_TRUE(spec.ok()) << spec.status();
  const Process& process = *spec->process;
  EXPECT_EQ(process.console_size->width, 80u);
  EXPECT_EQ(process.user.additional_gids, (std::vector<uint32_t>{3, 4}));
  EXPECT_EQ(process.user.umask, 18u);
  EXPECT_EQ(process.rlimits[0].hard, UINT64_MAX);
  EXPECT_EQ(process.oom_score_adj, -7);
  EXPECT_EQ(spec->hooks->poststop[0].path, "/f");
  EXPECT_EQ(spec->linux_.namespaces[1].type, NamespaceType::kNetwork);
  EXPECT_EQ(spec->linux_.namespaces[1].path, "/run/netns/x");
  EXPECT_EQ(spec->linux_.resources->pids_limit, 100);
  EXPECT_EQ(spec->linux_.resources->devices[1].major, -1);
  EXPECT_EQ(spec->linux_.resources->memory->swap, -1);
  EXPECT_EQ(spec->linux_.seccomp->syscalls[0].args[0].value_two, 2u);
  EXPECT_EQ(spec->linux_.mount_label, "ml");
}

TEST(ParseSpecTest, WhatIsSerializedParsesBackToTheSameText) {
  absl::StatusOr<Spec> spec = ParseSpec(kFull);
  ASSERT_TRUE(spec.ok());
  const std::string text = SerializeSpec(*spec);
  absl::StatusOr<Spec> again = ParseSpec(text);
  ASSERT_TRUE(again.ok()) << again.status() << text;
  EXPECT_EQ(SerializeSpec(*again), text);
  for (const char* piece :
       {"\"throttleWriteIOPSDevice\"", "\"checkBeforeUpdate\": true",
        "\"hard\": 18446744073709551615", "\"umask\": 18", "\"listenerMetadata\": \"m\"",
        "\"timeout\": 3", "\"domainname\": \"d\""}) {
    EXPECT_TRUE(absl::StrContains(text, piece)) << piece;
  }
  EXPECT_FALSE(absl::StrContains(text, "futureField"));
}

TEST(ParseSpecTest, AnEmptySpecRoundTrips) {
  absl::StatusOr<Spec> again = ParseSpec(SerializeSpec(Spec()));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->process.has_value());
}

TEST(ParseSpecTest, EnvironmentBytesThatAreNotUtf8Survive) {
  Spec spec;
  spec.process.emplace();
  std::string every = "ALL=";
  for (int c = 1; c < 256; ++c) every.push_back(static_cast<char>(c));
  spec.process->env = {every, "X=\xff", "Y=\xed\xb2\x80", "Z=\xc3\xa9\xf0\x9f\x98\x80\xc3"};
  const std::string text = SerializeSpec(spec);
  absl::StatusOr<Spec> again = ParseSpec(text);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->process->env, spec.process->env);
  EXPECT_TRUE(absl::StrContains(text, "X=\\udcff"));
}

TEST(ParseSpecTest, SurrogatePairsAreCharactersAndNotBytes) {
  absl::StatusOr<Spec> spec = ParseSpec(Minimal(R"("hostname": "\ud83d\udc80-\udcff")"));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(spec->hostname, "\xf0\x9f\x92\x80-\xff");
  EXPECT_NE(Error(Minimal(R"("hostname": "\udc00")")), "ok");
  EXPECT_NE(Error(Minimal(R"("hostname": "\ud83d")")), "ok");
}

TEST(ParseSpecTest, DuplicateKeysAreErrorsAtAnyDepth) {
  EXPECT_EQ(Error(Minimal(R"("root": {"path": "a", "path": "b"})")),
            "root.path: the key occurs twice");
  EXPECT_EQ(Error(Minimal(R"("ociVersion": "1.0.0")")), "ociVersion: the key occurs twice");
  EXPECT_EQ(Error(Minimal(R"("unknown": [{"a": {"b": 1, "b": 1}}])")),
            "unknown[0].a.b: the key occurs twice");
  EXPECT_EQ(Error(Minimal(R"("root": {"path": "a", "p\u0061th": "b"})")),
            "root.path: the key occurs twice");
}

TEST(ParseSpecTest, WrongTypesNameThePath) {
  EXPECT_EQ(Error(Minimal(R"("process": {"cwd": "/", "args": ["a", 7]})")),
            "process.args[1]: is an integer, must be a string");
  EXPECT_EQ(Error(Minimal(R"("linux": [])")), "linux: is an array, must be an object");
  EXPECT_EQ(Error(Minimal(R"("process": {"cwd": "/", "terminal": "yes"})")),
            "process.terminal: is a string, must be a boolean");
  EXPECT_EQ(Error("[]"), "is an array, must be an object");
}

TEST(ParseSpecTest, NumbersOutOfRangeAreErrors) {
  const auto with_uid = [](absl::string_view uid) {
    return Minimal(absl::StrCat(R"("process": {"cwd": "/", "user": {"uid": )", uid, "}}"));
  };
  EXPECT_EQ(Error(with_uid("4294967294")), "ok");
  for (const char* bad : {"4294967295", "4294967296", "-1", "1.5", "1e3", "99999999999999999999"}) {
    EXPECT_TRUE(absl::StrContains(Error(with_uid(bad)), "process.user")) << bad;
  }
  EXPECT_TRUE(
      absl::StrContains(Error(Minimal(R"("linux": {"resources": {"blockIO": {"weight": 65536}}})")),
                        "linux.resources.blockIO.weight: is out of range"));
  EXPECT_TRUE(absl::StrContains(Error(Minimal(R"("process": {"cwd": "/", "oomScoreAdj": 1001})")),
                                "oomScoreAdj"));
}

TEST(ParseSpecTest, UnknownEnumerationValuesAreErrors) {
  EXPECT_EQ(Error(Minimal(R"("linux": {"namespaces": [{"type": "net"}]})")),
            "linux.namespaces[0].type: \"net\" is not a known value");
  EXPECT_EQ(Error(Minimal(R"("linux": {"rootfsPropagation": "rslave"})")),
            "linux.rootfsPropagation: \"rslave\" is not a known value");
  EXPECT_EQ(Error(Minimal(R"("linux": {"seccomp": {"defaultAction": "ALLOW"}})")),
            "linux.seccomp.defaultAction: \"ALLOW\" is not a known value");
  EXPECT_EQ(
      Error(Minimal(
          R"("process": {"cwd": "/", "rlimits": [{"type": "NOFILE", "soft": 1, "hard": 1}]})")),
      "process.rlimits[0].type: \"NOFILE\" is not a known value");
}

TEST(ParseSpecTest, ATypeOfNamespaceOrRlimitOccursOnce) {
  EXPECT_EQ(Error(Minimal(
                R"("linux": {"namespaces": [{"type": "pid"}, {"type": "pid", "path": "/x"}]})")),
            "linux: namespaces has a type twice");
  EXPECT_EQ(Error(Minimal(R"("process": {"cwd": "/", "rlimits": [
      {"type": "RLIMIT_AS", "soft": 1, "hard": 1}, {"type": "RLIMIT_AS", "soft": 1, "hard": 1}]})")),
            "process: rlimits has RLIMIT_AS twice");
}

TEST(ParseSpecTest, VersionsOtherThanOneAreRefused) {
  EXPECT_EQ(Error(R"({"ociVersion": "1.9.7-dev"})"), "ok");
  EXPECT_NE(Error(R"({"ociVersion": "2.0.0"})"), "ok");
  EXPECT_NE(Error(R"({"ociVersion": "10.0.0"})"), "ok");
  EXPECT_EQ(Error("{}"), "lacks the required field ociVersion");
}

TEST(ParseSpecTest, BrokenSyntaxAndBytesAreErrors) {
  for (const char* bad :
       {"", "{", "{\"ociVersion\": \"1.0.0\",}", "{\"ociVersion\": \"1.0.0\"} x", "{'a': 1}",
        "{\"ociVersion\": \"1.0.0\", \"hostname\": \"\xff\"}", "nul"}) {
    EXPECT_NE(Error(bad), "ok") << bad;
  }
  EXPECT_TRUE(absl::StrContains(Error(Minimal(R"("hostname": "a\u0000b")")), "NUL"));
}

TEST(ParseSpecTest, DepthAndSizeAreBounded) {
  const std::string deep =
      Minimal(absl::StrCat("\"x\": ", std::string(100000, '['), std::string(100000, ']')));
  EXPECT_TRUE(absl::StrContains(Error(deep), "nested deeper"));
  EXPECT_TRUE(absl::StrContains(Error(std::string(kMaxSpecBytes + 1, ' ')), "bytes"));
}

TEST(ParseSpecTest, NullCountsAsAbsent) {
  absl::StatusOr<Spec> spec = ParseSpec(Minimal(R"("process": null, "linux": null)"));
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_FALSE(spec->process.has_value());
}

TEST(ParseSpecTest, UnifiedKeysAreFileNames) {
  for (const char* bad : {"../x", "a/b", "", ".."}) {
    EXPECT_NE(Error(Minimal(
                  absl::StrCat(R"("linux": {"resources": {"unified": {")", bad, R"(": "1"}}})"))),
              "ok");
  }
}

TEST(ParseSpecTest, AProcessAloneCanBeParsed) {
  EXPECT_TRUE(ParseProcess(R"({"cwd": "/", "args": ["x"]})").ok());
  EXPECT_FALSE(ParseProcess(R"({"args": ["x"]})").ok());
}

}  // namespace
}  // namespace davit::runtime::spec
