#include "sandbox/cni/network.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "runtime/sys/file.h"

namespace davit::sandbox::cni {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

absl::Time Soon() { return absl::Now() + absl::Seconds(30); }

// A chain of plugins "a", "b", "c": one script that writes down how it was called, and does what
// the file <type>.<command> says, if there is one.
class NetworkTest : public testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-cni-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    path_ = pattern;
    for (const char* name : {"conf", "bin"}) {
      ASSERT_TRUE(sys::MakeDirs(absl::StrCat(path_, "/", name), 0755).ok());
    }
    for (const char* type : {"a", "b", "c"}) {
      Write(absl::StrCat("bin/", type),
            absl::StrCat("#!/bin/sh\ncd ", path_, "\ntype=${0##*/}\n",
                         "in=$(cat)\necho \"$in\" >$type.$CNI_COMMAND.input\n",
                         "echo \"$type $CNI_COMMAND [$CNI_NETNS]\" >>calls\n",
                         "if [ -e $type.$CNI_COMMAND ]; then . ./$type.$CNI_COMMAND; fi\n",
                         "[ $CNI_COMMAND = ADD ] && echo '{\"cniVersion\":\"1.0.0\",\"ips\":"
                         "[{\"address\":\"10.1.1.7/24\"}],\"from\":\"'$type'\"}'\nexit 0\n"));
    }
    Configure("net", "1.0.0");
    Open();
  }
  void TearDown() override { EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, path_).ok()); }

  void Open(absl::Duration timeout = absl::Seconds(20)) {
    NetworkOptions options;
    options.conf_dir = path_ + "/conf";
    options.bin_dirs = {path_ + "/bin"};
    options.state_dir = path_ + "/state";
    options.plugin_timeout = timeout;
    auto network = Network::Open(options);
    ASSERT_TRUE(network.ok()) << network.status();
    network_ = *std::move(network);
  }

  void Write(const std::string& name, const std::string& text) {
    const std::string file = absl::StrCat(path_, "/", name);
    auto fd = sys::OpenAt(AT_FDCWD, file, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    ASSERT_TRUE(fd.ok() && sys::WriteAll(fd->get(), text, file).ok());
  }
  void Remove(const std::string& name) { unlink(absl::StrCat(path_, "/", name).c_str()); }
  void Configure(const std::string& name, const std::string& version) {
    Write("conf/10.conflist",
          absl::StrCat(R"({"cniVersion":")", version, R"(","name":")", name,
                       R"(","plugins":[{"type":"a"},{"type":"b","capabilities":)"
                       R"({"portMappings":true}},{"type":"c"}]})"));
  }
  std::vector<std::string> Calls() {
    const auto text = sys::ReadFileAt(AT_FDCWD, path_ + "/calls", 1 << 20);
    Remove("calls");
    if (!text.ok()) return {};
    std::vector<std::string> calls;
    for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipEmpty())) {
      // Without the namespace unless it is empty.
      const size_t bracket = line.find(" [");
      calls.emplace_back(line.substr(bracket) == " []" ? line : line.substr(0, bracket));
    }
    return calls;
  }
  std::string Input(const std::string& name) {
    return *sys::ReadFileAt(AT_FDCWD, absl::StrCat(path_, "/", name, ".input"), 1 << 20);
  }
  static Request Pod(const std::string& id = "pod1") {
    Request request;
    request.sandbox_id = id;
    request.netns_path = "/proc/self/ns/net";
    request.pod_name = "web";
    request.pod_namespace = "default";
    request.port_mappings = {{"tcp", 80, 8080, ""}};
    return request;
  }
  bool HasFiles() {
    return access((path_ + "/state/pod1.json").c_str(), F_OK) == 0 ||
           access((path_ + "/state/pod1.lock").c_str(), F_OK) == 0;
  }

  std::string path_;
  std::unique_ptr<Network> network_;
};

TEST_F(NetworkTest, PluginsAreAddedInOrderAndDeletedInReverse) {
  const auto result = network_->Add(Pod(), Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->ips, ElementsAre("10.1.1.7"));
  EXPECT_THAT(result->json, HasSubstr(R"("from":"c")"));
  EXPECT_THAT(Calls(), ElementsAre("a ADD", "b ADD", "c ADD"));
  EXPECT_THAT(Input("a.ADD"), testing::Not(HasSubstr("prevResult")));
  EXPECT_THAT(Input("b.ADD"), HasSubstr(R"("prevResult":{"cniVersion":"1.0.0","from":"a")"));
  EXPECT_THAT(Input("b.ADD"), HasSubstr(R"("hostPort":8080)"));
  EXPECT_THAT(Input("c.ADD"), testing::Not(HasSubstr("hostPort")));

  const auto stored = network_->List();
  ASSERT_EQ(stored.size(), 1u);
  EXPECT_TRUE(stored[0].added);
  EXPECT_EQ(stored[0].network, "net");
  EXPECT_THAT(stored[0].ips, ElementsAre("10.1.1.7"));

  ASSERT_TRUE(network_->Check("pod1", Soon()).ok());
  EXPECT_THAT(Calls(), ElementsAre("a CHECK", "b CHECK", "c CHECK"));
  ASSERT_TRUE(network_->Del("pod1", Soon()).ok());
  EXPECT_THAT(Calls(), ElementsAre("c DEL", "b DEL", "a DEL"));
  EXPECT_THAT(Input("a.DEL"), HasSubstr(R"("from":"c")"));
  EXPECT_THAT(network_->List(), IsEmpty());
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, AFailedAddIsUndoneCompletely) {
  Write("b.ADD", "echo '{\"code\":9,\"msg\":\"no ports left\"}'; exit 1");
  const auto result = network_->Add(Pod(), Soon());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("no ports left"));
  EXPECT_THAT(Calls(), ElementsAre("a ADD", "b ADD", "c DEL", "b DEL", "a DEL"));
  EXPECT_THAT(Input("a.DEL"), testing::Not(HasSubstr("prevResult")));
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, ADamagedRecordIsDeletedByWhatIsKnownAndSetAside) {
  ASSERT_TRUE(network_->Add(Pod(), Soon()).ok());
  Calls();
  Write("state/pod1.json", "garbage");
  EXPECT_TRUE(absl::IsDataLoss(network_->Del("pod1", Soon())));
  EXPECT_THAT(Calls(), ElementsAre());
  const Request known = Pod();
  Write("b.DEL", "exit 1");
  EXPECT_FALSE(network_->Del("pod1", Soon(), &known).ok());
  EXPECT_TRUE(HasFiles());
  Remove("b.DEL");
  Calls();
  EXPECT_TRUE(network_->Del("pod1", Soon(), &known).ok());
  EXPECT_THAT(Calls(), ElementsAre("c DEL", "b DEL", "a DEL"));
  EXPECT_FALSE(HasFiles());
  EXPECT_EQ(*sys::ReadFileAt(AT_FDCWD, path_ + "/state/set-aside/pod1.json.0", 100), "garbage");
  EXPECT_TRUE(network_->Del("pod1", Soon(), &known).ok());
}

TEST_F(NetworkTest, ADeleteThatFailsIsOwedAndRepeatedWithTheOldConfiguration) {
  ASSERT_TRUE(network_->Add(Pod(), Soon()).ok());
  Calls();
  Write("b.DEL", "echo b is unwell >&2; exit 1");
  Write("a.DEL", "echo a is unwell >&2; exit 1");
  const absl::Status failed = network_->Del("pod1", Soon());
  EXPECT_THAT(std::string(failed.message()), HasSubstr("b is unwell"));
  EXPECT_THAT(std::string(failed.message()), HasSubstr("a is unwell"));
  EXPECT_THAT(Calls(), ElementsAre("c DEL", "b DEL", "a DEL"));
  EXPECT_EQ(network_->List().size(), 1u);

  Remove("b.DEL");
  Remove("a.DEL");
  Write("conf/10.conflist", R"({"name":"other","plugins":[{"type":"c"}]})");
  Open();  // a new daemon
  EXPECT_EQ(network_->List().size(), 1u);
  ASSERT_TRUE(network_->Del("pod1", Soon()).ok());
  EXPECT_THAT(Calls(), ElementsAre("c DEL", "b DEL", "a DEL"));
  EXPECT_THAT(Input("a.DEL"), HasSubstr(R"("name":"net")"));
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, WhenTheUndoingFailsTheAttachmentStaysOnRecord) {
  Write("b.ADD", "exit 1");
  Write("a.DEL", "exit 1");
  const auto result = network_->Add(Pod(), Soon());
  EXPECT_THAT(std::string(result.status().message()), HasSubstr("will be repeated"));
  const auto stored = network_->List();
  ASSERT_EQ(stored.size(), 1u);
  EXPECT_FALSE(stored[0].added);
  EXPECT_EQ(network_->Check("pod1", Soon()).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(network_->Add(Pod(), Soon()).status().code(), absl::StatusCode::kAlreadyExists);
  Remove("a.DEL");
  EXPECT_TRUE(network_->Del("pod1", Soon()).ok());
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, AHangingPluginFailsTheAddAndTheOthersAreUndone) {
  Write("b.ADD", "sleep 1000");
  const auto result = network_->Add(Pod(), absl::Now() + absl::Milliseconds(700));
  EXPECT_EQ(result.status().code(), absl::StatusCode::kDeadlineExceeded) << result.status();
  // Although the caller's deadline has passed.
  EXPECT_THAT(Calls(), ElementsAre("a ADD", "b ADD", "c DEL", "b DEL", "a DEL"));
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, GarbageAndFloodsAreFailuresOfThePlugin) {
  Write("c.ADD", "echo hello; exit 0");
  EXPECT_THAT(std::string(network_->Add(Pod(), Soon()).status().message()),
              HasSubstr("CNI plugin c"));
  Write("c.ADD", "head -c 5000000 /dev/zero; exit 0");
  EXPECT_FALSE(network_->Add(Pod(), Soon()).ok());
  Write("c.ADD", "echo '{\"cniVersion\":\"1.0.0\"}'; exit 0");
  EXPECT_THAT(std::string(network_->Add(Pod(), Soon()).status().message()),
              HasSubstr("no plugin gave the pod an address"));
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, TheRecordIsThereBeforeTheFirstPluginRuns) {
  Write("a.ADD", "cp state/pod1.json seen");
  ASSERT_TRUE(network_->Add(Pod(), Soon()).ok());
  const auto seen = sys::ReadFileAt(AT_FDCWD, path_ + "/seen", 1 << 20);
  ASSERT_TRUE(seen.ok());
  EXPECT_THAT(*seen, HasSubstr(R"("state":"adding")"));
  EXPECT_THAT(*seen, HasSubstr(R"("hostPort":8080)"));
  ASSERT_TRUE(network_->Del("pod1", Soon()).ok());
}

TEST_F(NetworkTest, ANamespaceThatIsGoneIsDeletedWithoutOne) {
  ASSERT_TRUE(network_->Add(Pod(), Soon()).ok());
  Calls();
  // As after a reboot: the same record, and a plain file where the namespace was bound.
  const std::string name = "state/pod1.json";
  std::string text = *sys::ReadFileAt(AT_FDCWD, absl::StrCat(path_, "/", name), 1 << 20);
  const std::string old = "/proc/self/ns/net";
  text.replace(text.find(old), old.size(), path_ + "/conf/10.conflist");
  Write(name, text);
  ASSERT_TRUE(network_->Del("pod1", Soon()).ok());
  EXPECT_THAT(Calls(), ElementsAre("c DEL []", "b DEL []", "a DEL []"));
}

TEST_F(NetworkTest, ADeleteWaitsForThePluginOfADaemonThatWasKilled) {
  // The killed daemon: a child whose plugin hangs until told, and who dies meanwhile.
  Write("a.ADD", "touch adding; while [ ! -e go ]; do sleep 0.01; done; touch finished");
  const pid_t daemon = fork();
  if (daemon == 0) {
    (void)network_->Add(Pod(), Soon());
    _exit(0);
  }
  while (access((path_ + "/adding").c_str(), F_OK) != 0) usleep(1000);
  kill(daemon, SIGKILL);
  waitpid(daemon, nullptr, 0);

  Open();
  ASSERT_EQ(network_->List().size(), 1u);
  EXPECT_FALSE(network_->List()[0].added);
  EXPECT_EQ(network_->Del("pod1", absl::Now() + absl::Milliseconds(50)).code(),
            absl::StatusCode::kDeadlineExceeded);
  Write("a.DEL", "[ -e finished ] || { echo too early >&2; exit 1; }");
  std::thread go([&] { Write("go", ""); });
  const absl::Status deleted = network_->Del("pod1", Soon());
  go.join();
  EXPECT_TRUE(deleted.ok()) << deleted;
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, UnknownSandboxesAndMalformedRequests) {
  EXPECT_TRUE(network_->Del("unknown", Soon()).ok());
  EXPECT_TRUE(network_->Del("../../etc/passwd", Soon()).ok());
  EXPECT_EQ(network_->Check("unknown", Soon()).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(network_->Add(Pod("../x"), Soon()).status().code(), absl::StatusCode::kInvalidArgument);
  Request request = Pod();
  request.netns_path = path_ + "/conf/10.conflist";
  EXPECT_EQ(network_->Add(request, Soon()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Calls(), IsEmpty());
  EXPECT_THAT(network_->List(), IsEmpty());
  EXPECT_FALSE(HasFiles());
}

TEST_F(NetworkTest, TheStatusSaysWhatIsMissing) {
  EXPECT_TRUE(network_->Status().ready);
  EXPECT_THAT(network_->ConfigJson(), HasSubstr(R"("name":"net")"));
  Remove("bin/b");
  EXPECT_EQ(network_->Status().reason, "NetworkPluginNotReady");
  EXPECT_THAT(network_->Status().message, HasSubstr("plugin b is not installed"));
  Write("conf/05.conflist", "{");
  EXPECT_THAT(network_->Status().message, HasSubstr("05.conflist"));
  Remove("conf/05.conflist");
  Remove("conf/10.conflist");
  EXPECT_FALSE(network_->Status().ready);
  EXPECT_THAT(network_->Status().message, HasSubstr(path_ + "/conf"));
  EXPECT_EQ(network_->ConfigJson(), "");
  EXPECT_EQ(network_->Add(Pod(), Soon()).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(NetworkTest, OldVersionsAreNotChecked) {
  Configure("net", "0.3.1");
  ASSERT_TRUE(network_->Add(Pod(), Soon()).ok());
  Calls();
  EXPECT_TRUE(network_->Check("pod1", Soon()).ok());
  EXPECT_THAT(Calls(), IsEmpty());
  EXPECT_TRUE(network_->Del("pod1", Soon()).ok());
  EXPECT_THAT(Input("a.DEL"), testing::Not(HasSubstr("prevResult")));
}

TEST_F(NetworkTest, SandboxesAreAttachedAtTheSameTime) {
  // Each waits for the other's ADD to have begun.
  Write("a.ADD",
        "touch began.$CNI_CONTAINERID; while [ ! -e began.pod1 -o ! -e began.pod2 ]; do "
        "sleep 0.01; done");
  absl::Status first;
  std::thread other([&] { first = network_->Add(Pod("pod1"), Soon()).status(); });
  const absl::Status second = network_->Add(Pod("pod2"), Soon()).status();
  other.join();
  EXPECT_TRUE(first.ok()) << first;
  EXPECT_TRUE(second.ok()) << second;
  EXPECT_EQ(network_->List().size(), 2u);
}

}  // namespace
}  // namespace davit::sandbox::cni
