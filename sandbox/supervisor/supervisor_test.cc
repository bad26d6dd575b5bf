// Drives the built davit-pod as davitd does, over its socket, with containers made of busybox.

#include <fcntl.h>
#include <linux/nsfs.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <deque>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "proto/supervisor.pb.h"
#include "runtime/plan/compile.h"
#include "runtime/sys/capability.h"
#include "runtime/sys/features.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"
#include "runtime/sys/spawn.h"
#include "sandbox/status_record.h"

namespace davit::sandbox {
namespace {

using runtime::spec::NamespaceType;
using supervisor::v1::ContainerState;
using supervisor::v1::FromSupervisor;
using supervisor::v1::PodConfig;
using supervisor::v1::Reply;
using supervisor::v1::ToSupervisor;

constexpr absl::Duration kPatience = absl::Seconds(20);

const sys::KernelFeatures& Features() {
  static const sys::KernelFeatures features = sys::ProbeKernel();
  return features;
}

std::string ReadFile(const std::string& path) {
  auto data = sys::ReadFileAt(AT_FDCWD, path, size_t{64} << 20);
  return data.ok() ? *data : std::string();
}

bool Exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

std::string LinkOf(const std::string& path) {
  char target[4096];
  const ssize_t n = readlink(path.c_str(), target, sizeof target);
  return n < 0 ? "" : std::string(target, static_cast<size_t>(n));
}

// Waits for something that no descriptor announces.
bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 4000; ++i) {
    if (condition()) return true;
    usleep(5000);
  }
  return false;
}

sys::UniqueFd Memfd(const std::string& name, const std::string& data) {
  auto fd = sys::SealedMemfd(name.c_str(), data);
  EXPECT_TRUE(fd.ok()) << fd.status();
  return fd.ok() ? *std::move(fd) : sys::UniqueFd();
}

// The test's groups in the hierarchies that it uses, removed at the end.
class Cgroups {
 public:
  Cgroups() {
    const bool v1 = Exists("/sys/fs/cgroup/memory");
    if (v1) {
      for (const char* name : {"memory", "pids"}) Add(absl::StrCat("/sys/fs/cgroup/", name), false);
      Add("/sys/fs/cgroup/unified", true);
    } else {
      Add("/sys/fs/cgroup", true);
      sys::WriteExistingAt(AT_FDCWD, "/sys/fs/cgroup/cgroup.subtree_control", "+memory")
          .IgnoreError();
      sys::WriteExistingAt(AT_FDCWD, groups_[0].path + "/cgroup.subtree_control", "+memory")
          .IgnoreError();
    }
  }
  ~Cgroups() {
    for (const auto& group : groups_) {
      EXPECT_TRUE(Eventually([&] { return rmdir(group.path.c_str()) == 0 || errno == ENOENT; }))
          << group.path << " is still busy";
    }
  }
  std::vector<runtime::plan::CgroupDirectory> Of(const std::string& container,
                                                 int64_t memory_limit) const {
    std::vector<runtime::plan::CgroupDirectory> result;
    for (runtime::plan::CgroupDirectory group : groups_) {
      const bool v1_memory = absl::StrContains(group.path, "/memory/");
      group.path += "/" + container;
      if (memory_limit > 0 && (v1_memory || groups_.size() == 1)) {
        group.writes.push_back({v1_memory ? "memory.limit_in_bytes" : "memory.max",
                                absl::StrCat(memory_limit), false});
      }
      result.push_back(group);
    }
    return result;
  }
  std::string unified() const { return groups_.back().path; }
  // Every group beneath the test's own.
  std::vector<std::string> Children() const {
    std::vector<std::string> children;
    for (const auto& group : groups_) {
      auto found = sys::RunCommand(
          {.path = "/usr/bin/find", .argv = {"find", group.path, "-mindepth", "1", "-type", "d"}},
          "", 1 << 20, absl::Now() + kPatience);
      for (absl::string_view line : absl::StrSplit(found->out, '\n', absl::SkipEmpty())) {
        children.emplace_back(line);
      }
    }
    return children;
  }

 private:
  void Add(const std::string& hierarchy, bool unified) {
    runtime::plan::CgroupDirectory group;
    group.path = absl::StrCat(hierarchy, "/davit-test-h3-", getpid());
    group.unified = unified;
    EXPECT_EQ(mkdir(group.path.c_str(), 0755), 0) << group.path;
    groups_.push_back(group);
  }
  std::vector<runtime::plan::CgroupDirectory> groups_;
};

struct ContainerOptions {
  std::vector<std::string> args;
  bool tty = false;
  bool stdin = false;
  bool share_pid = false;
  bool no_log = false;
  int64_t memory_limit = 0;
  std::string log_path;
  std::string bind_source;  // at /data
  uint32_t timeout_ms = 0;
};

struct ExecOptions {
  std::vector<std::string> args;
  int64_t timeout_ms = 0;
  bool tty = false;
};

class SupervisorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/davit-supervisor-XXXXXX";
    ASSERT_NE(mkdtemp(pattern), nullptr);
    dir_ = pattern;
    for (const char* name : {"/pod", "/l0", "/l0/bin", "/l0/proc", "/l0/dev", "/l0/sys", "/l0/tmp",
                             "/l0/data", "/l0/etc"}) {
      ASSERT_EQ(mkdir((dir_ + name).c_str(), 0755), 0);
    }
    const std::string busybox = ReadFile("/bin/busybox");
    ASSERT_FALSE(busybox.empty());
    ASSERT_TRUE(sys::WriteFileAtomic(AT_FDCWD, dir_ + "/l0/bin/busybox", busybox, 0755,
                                     sys::Durability::kProcess)
                    .ok() ||
                WriteProgram(dir_ + "/l0/bin/busybox", busybox));
    for (const char* applet :
         {"sh", "sleep", "true", "cat", "echo", "hostname", "ps", "kill", "seq", "yes", "tty", "dd",
          "head", "tail", "id", "ls", "readlink", "stty", "mount"}) {
      ASSERT_EQ(symlink("busybox", absl::StrCat(dir_, "/l0/bin/", applet).c_str()), 0);
    }
  }

  void TearDown() override {
    if (pid_ > 0) {
      if (!Shutdown()) {
        ADD_FAILURE() << "the supervisor had to be killed";
        sys::KillPidfd(pidfd_.get(), SIGKILL).IgnoreError();
        sys::WaitPidfd(pidfd_.get(), absl::Now() + kPatience).status().IgnoreError();
      }
      // Nothing is left: no mount, no cgroup, no process.
      EXPECT_EQ(Mounts(), std::set<std::string>());
      EXPECT_TRUE(cgroups_.Children().empty()) << absl::StrJoin(cgroups_.Children(), " ");
      EXPECT_FALSE(Exists(netns_path()));
      EXPECT_FALSE(Exists(dir_ + "/pod/supervisor.sock"));
    }
    EXPECT_TRUE(sys::RemoveTreeAt(AT_FDCWD, dir_).ok());
  }

  static bool WriteProgram(const std::string& path, const std::string& data) {
    std::ofstream(path) << data;
    return chmod(path.c_str(), 0755) == 0;
  }

  // The host's mounts that are this test's: others come and go meanwhile.
  std::set<std::string> Mounts() const {
    std::set<std::string> mounts;
    for (absl::string_view line : absl::StrSplit(ReadFile("/proc/self/mountinfo"), '\n')) {
      if (absl::StrContains(line, dir_)) mounts.emplace(line);
    }
    return mounts;
  }

  std::string netns_path() const { return dir_ + "/netns/pod"; }

  // ---- the daemon's side

  void StartPod(const std::function<void(PodConfig*)>& adjust = nullptr) {
    PodConfig config;
    config.set_protocol_version(1);
    config.set_sandbox_id("pod1");
    config.set_pod_dir(dir_ + "/pod");
    config.set_new_ipc_namespace(true);
    config.set_new_uts_namespace(true);
    config.set_hostname("test-pod");
    if (adjust) adjust(&config);
    SpawnPod(config);
    hello_ = Call([](ToSupervisor* request) { request->mutable_hello()->set_protocol_version(1); });
  }

  void SpawnPod(const PodConfig& config) {
    auto program = Memfd("davit-pod", ReadFile("sandbox/supervisor/davit-pod"));
    auto init = Memfd("davit-init", ReadFile("sandbox/supervisor/davit-init"));
    auto memfd = Memfd("config", config.SerializeAsString());
    auto pair = sys::SeqpacketPair();
    ASSERT_TRUE(pair.ok());
    sys::SpawnOptions options;
    options.executable_fd = program.get();
    options.argv = {"davit-pod"};
    options.fds = {
        {pair->second.get(), 3}, {memfd.get(), 4}, {init.get(), 5}, {program.get(), 6}, {2, 2}};
    auto spawned = sys::Spawn(options);
    ASSERT_TRUE(spawned.ok()) << spawned.status();
    pid_ = spawned->pid;
    pidfd_ = std::move(spawned->pidfd);
    socket_ = std::move(pair->first);
  }

  void Send(const ToSupervisor& request, const std::vector<int>& fds) {
    const absl::Status sent = sys::SendPacket(socket_.get(), request.SerializeAsString(), fds);
    ASSERT_TRUE(sent.ok()) << sent;
  }

  // The next message, or nothing within the patience.
  bool Receive(FromSupervisor* message, std::vector<sys::UniqueFd>* fds,
               absl::Duration patience = kPatience) {
    pollfd poll_fd{socket_.get(), POLLIN, 0};
    if (poll(&poll_fd, 1, static_cast<int>(absl::ToInt64Milliseconds(patience))) != 1) return false;
    auto packet = sys::ReceivePacket(socket_.get());
    if (!packet.ok()) return false;
    if (fds != nullptr) *fds = std::move(packet->fds);
    return message->ParseFromString(packet->data);
  }

  uint64_t SendRequest(const std::function<void(ToSupervisor*)>& fill,
                       const std::vector<int>& fds = {}) {
    ToSupervisor request;
    request.set_request_id(++last_id_);
    fill(&request);
    Send(request, fds);
    return last_id_;
  }

  Reply AwaitReply(uint64_t id) {
    FromSupervisor message;
    for (;;) {
      std::vector<sys::UniqueFd> fds;
      if (!Receive(&message, &fds)) {
        Reply none;
        none.mutable_error()->set_message("no reply");
        none.mutable_error()->set_code(-1);
        return none;
      }
      if (message.has_reply() && message.reply().request_id() == id) {
        reply_fds_ = std::move(fds);
        return message.reply();
      }
      events_.push_back(message);
    }
  }

  Reply Call(const std::function<void(ToSupervisor*)>& fill, const std::vector<int>& fds = {}) {
    return AwaitReply(SendRequest(fill, fds));
  }

  template <typename Match>
  bool AwaitEvent(Match match, FromSupervisor* found) {
    for (auto it = events_.begin(); it != events_.end(); ++it) {
      if (match(*it)) {
        *found = *it;
        events_.erase(it);
        return true;
      }
    }
    FromSupervisor message;
    while (Receive(&message, nullptr)) {
      if (match(message)) {
        *found = message;
        return true;
      }
      events_.push_back(message);
    }
    return false;
  }

  ContainerState AwaitExit(const std::string& id) {
    FromSupervisor event;
    EXPECT_TRUE(AwaitEvent(
        [&](const FromSupervisor& e) {
          return e.has_container_exited() && e.container_exited().state().container_id() == id;
        },
        &event))
        << "container " << id << " did not end";
    return event.container_exited().state();
  }

  supervisor::v1::ExecExited AwaitExecExit(const std::string& id) {
    FromSupervisor event;
    EXPECT_TRUE(AwaitEvent(
        [&](const FromSupervisor& e) {
          return e.has_exec_exited() && e.exec_exited().exec_id() == id;
        },
        &event))
        << "exec " << id << " did not end";
    return event.exec_exited();
  }

  // A daemon that was killed comes back.
  void Reconnect() {
    auto socket = sys::SeqpacketConnect(dir_ + "/pod/supervisor.sock");
    ASSERT_TRUE(socket.ok()) << socket.status();
    socket_ = *std::move(socket);
    events_.clear();
    hello_ = Call([](ToSupervisor* request) { request->mutable_hello()->set_protocol_version(1); });
  }

  bool Shutdown() {
    const Reply reply = Call([](ToSupervisor* request) { request->mutable_shutdown(); });
    if (reply.has_error()) {
      ADD_FAILURE() << reply.error().message();
      return false;
    }
    auto status = sys::WaitPidfd(pidfd_.get(), absl::Now() + kPatience);
    EXPECT_TRUE(status.ok()) << status.status();
    EXPECT_EQ(status.value_or(-1), 0);
    pid_ = 0;
    return status.ok();
  }

  // ---- containers

  std::string ContainerDir(const std::string& id) const { return dir_ + "/containers/" + id; }
  std::string LogPath(const std::string& id) const { return dir_ + "/logs/" + id + "/0.log"; }

  runtime::spec::Spec Spec(const ContainerOptions& options) const {
    runtime::spec::Spec spec;
    spec.process.emplace();
    spec.process->args = options.args;
    spec.process->env = {"PATH=/bin"};
    spec.process->terminal = options.tty;
    spec.mounts.push_back(
        {.destination = "/proc", .type = "proc", .source = "proc", .options = {}});
    spec.mounts.push_back({.destination = "/dev",
                           .type = "tmpfs",
                           .source = "tmpfs",
                           .options = {"nosuid", "mode=755"}});
    spec.mounts.push_back({.destination = "/dev/pts",
                           .type = "devpts",
                           .source = "devpts",
                           .options = {"newinstance", "ptmxmode=0666", "mode=0620"}});
    spec.mounts.push_back({.destination = "/dev/shm",
                           .type = "bind",
                           .source = "/dev/shm",
                           .options = {"rbind", "rw"}});
    if (!options.bind_source.empty()) {
      spec.mounts.push_back({.destination = "/data",
                             .type = "bind",
                             .source = options.bind_source,
                             .options = {"rbind", "rw"}});
    }
    spec.linux_.namespaces = {{NamespaceType::kMount, ""}, {NamespaceType::kCgroup, ""}};
    if (!options.share_pid) spec.linux_.namespaces.push_back({NamespaceType::kPid, ""});
    return spec;
  }

  std::string ContainerPlan(const std::string& id, const ContainerOptions& options) const {
    runtime::plan::CreateInputs inputs;
    inputs.container_id = id;
    runtime::plan::OverlayRootfs overlay;
    overlay.lower_dirs = {dir_ + "/l0"};
    overlay.upper_dir = ContainerDir(id) + "/upper";
    overlay.work_dir = ContainerDir(id) + "/work";
    inputs.overlay = overlay;
    inputs.inherited = {NamespaceType::kIpc, NamespaceType::kUts, NamespaceType::kNetwork};
    inputs.join_pod_mount_namespace = true;
    inputs.pod_shm = true;
    inputs.join_pid_namespace = options.share_pid;
    inputs.cgroups = cgroups_.Of(id, options.memory_limit);
    inputs.features = Features();
    inputs.capability_ceiling = 0;
    inputs.oom_score_adj_floor = 0;
    auto plan = runtime::plan::CompileCreate(Spec(options), inputs);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? plan->blob : "";
  }

  Reply Create(const std::string& id, const ContainerOptions& options) {
    return AwaitReply(SendCreate(id, options));
  }

  uint64_t SendCreate(const std::string& id, const ContainerOptions& options) {
    EXPECT_TRUE(sys::MakeDirs(ContainerDir(id), 0755).ok());
    const sys::UniqueFd plan = Memfd("plan", ContainerPlan(id, options));
    return SendRequest(
        [&](ToSupervisor* request) {
          auto* create = request->mutable_create_container();
          create->set_container_id(id);
          create->set_container_dir(ContainerDir(id));
          if (!options.no_log) {
            create->set_log_path(options.log_path.empty() ? LogPath(id) : options.log_path);
          }
          create->set_tty(options.tty);
          create->set_stdin(options.stdin);
          create->set_timeout_ms(options.timeout_ms);
        },
        {plan.get()});
  }

  Reply Start(const std::string& id) {
    return Call([&](ToSupervisor* r) { r->mutable_start_container()->set_container_id(id); });
  }
  Reply Kill(const std::string& id, int signal, bool all = false) {
    return Call([&](ToSupervisor* r) {
      r->mutable_kill_container()->set_container_id(id);
      r->mutable_kill_container()->set_signal(signal);
      r->mutable_kill_container()->set_all(all);
    });
  }
  Reply Remove(const std::string& id) {
    return Call([&](ToSupervisor* r) { r->mutable_remove_container()->set_container_id(id); });
  }
  // Creates and starts; returns the host pid.
  int Run(const std::string& id, const ContainerOptions& options) {
    const Reply created = Create(id, options);
    EXPECT_FALSE(created.has_error()) << created.error().message();
    const Reply started = Start(id);
    EXPECT_FALSE(started.has_error()) << started.error().message();
    return created.create_container().pid();
  }
  ContainerState Record(const std::string& id) const {
    auto state = ReadStatus(ContainerDir(id) + "/status");
    EXPECT_TRUE(state.ok()) << state.status();
    return state.ok() ? *state : ContainerState();
  }
  // The content of the log, without times: "stdout F hello".
  std::vector<std::string> Log(const std::string& id) const {
    std::vector<std::string> lines;
    for (absl::string_view line : absl::StrSplit(ReadFile(LogPath(id)), '\n', absl::SkipEmpty())) {
      lines.emplace_back(line.substr(31));
    }
    return lines;
  }

  // ---- exec

  struct Streams {
    sys::UniqueFd out, err;
  };

  std::string ExecPlan(const std::string& container, const std::string& id,
                       const ExecOptions& options) const {
    runtime::spec::Process process;
    process.args = options.args;
    process.env = {"PATH=/bin"};
    process.terminal = options.tty;
    runtime::plan::ExecInputs inputs;
    inputs.container_id = container;
    inputs.cgroups = cgroups_.Of(container, 0);
    inputs.exec_leaf = "exec-" + id;
    inputs.features = Features();
    inputs.capability_ceiling = 0;
    inputs.oom_score_adj_floor = 0;
    auto plan = runtime::plan::CompileExec(process, inputs);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return plan.ok() ? plan->blob : "";
  }

  Reply Exec(const std::string& container, const std::string& id, const ExecOptions& options,
             Streams* streams = nullptr) {
    const sys::UniqueFd plan = Memfd("plan", ExecPlan(container, id, options));
    std::vector<int> fds = {plan.get()};
    sys::UniqueFd out, err;
    if (streams != nullptr) {
      int pipe_fds[2];
      EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
      streams->out.reset(pipe_fds[0]);
      out.reset(pipe_fds[1]);
      EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
      streams->err.reset(pipe_fds[0]);
      err.reset(pipe_fds[1]);
      fds.push_back(out.get());
      fds.push_back(err.get());
    }
    const uint64_t request = SendRequest(
        [&](ToSupervisor* r) {
          auto* exec = r->mutable_exec();
          exec->set_exec_id(id);
          exec->set_container_id(container);
          exec->set_has_stdout(streams != nullptr);
          exec->set_has_stderr(streams != nullptr);
          exec->set_timeout_ms(options.timeout_ms);
          exec->set_tty(options.tty);
        },
        fds);
    return AwaitReply(request);
  }
  static std::string ReadAll(const sys::UniqueFd& fd) {
    auto data = sys::ReadFd(fd.get(), 1 << 20, "stream");
    return data.ok() ? *data : data.status().ToString();
  }
  // Runs a command in the container and returns what it printed.
  std::string Output(const std::string& container, std::vector<std::string> args) {
    const std::string id = absl::StrCat("out", ++last_exec_);
    Streams streams;
    const Reply reply = Exec(container, id, {.args = std::move(args)}, &streams);
    if (reply.has_error()) return reply.error().message();
    const std::string out = ReadAll(streams.out);
    AwaitExecExit(id);
    return out;
  }

  // Host pids of the processes in a unified cgroup of the test, and beneath.
  std::set<int> Members(const std::string& container) const {
    std::set<int> pids;
    for (const std::string& group : cgroups_.Children()) {
      if (!absl::StartsWith(group, cgroups_.unified() + "/" + container)) continue;
      for (absl::string_view pid :
           absl::StrSplit(ReadFile(group + "/cgroup.procs"), '\n', absl::SkipEmpty())) {
        pids.insert(std::stoi(std::string(pid)));
      }
    }
    return pids;
  }

  Cgroups cgroups_;
  std::string dir_;
  pid_t pid_ = 0;
  sys::UniqueFd pidfd_;
  sys::UniqueFd socket_;
  Reply hello_;
  std::deque<FromSupervisor> events_;
  std::vector<sys::UniqueFd> reply_fds_;
  uint64_t last_id_ = 0;
  int last_exec_ = 0;
};

using Lines = std::vector<std::string>;

TEST_F(SupervisorTest, AContainerRunsToItsEndWithItsLogAndItsRecord) {
  StartPod();
  ASSERT_TRUE(hello_.has_hello()) << hello_.error().message();
  EXPECT_EQ(hello_.hello().sandbox_id(), "pod1");
  EXPECT_EQ(hello_.hello().pid(), pid_);
  const Reply created =
      Create("c1", {.args = {"sh", "-c", "echo out; echo err >&2; hostname; exit 7"}});
  ASSERT_FALSE(created.has_error()) << created.error().message();
  const int pid = created.create_container().pid();
  EXPECT_TRUE(Exists(absl::StrCat("/proc/", pid)));
  EXPECT_EQ(Record("c1").phase(), ContainerState::CREATED);
  EXPECT_EQ(Record("c1").pid(), pid);
  EXPECT_TRUE(Log("c1").empty());

  const Reply started = Start("c1");
  ASSERT_FALSE(started.has_error()) << started.error().message();
  const ContainerState state = AwaitExit("c1");
  EXPECT_EQ(state.phase(), ContainerState::EXITED);
  EXPECT_EQ(WEXITSTATUS(state.wait_status()), 7);
  EXPECT_EQ(state.pid(), 0);
  EXPECT_GT(state.created_at(), 0);
  EXPECT_GE(state.started_at(), state.created_at());
  EXPECT_GE(state.finished_at(), state.started_at());
  EXPECT_FALSE(state.oom_killed());
  EXPECT_EQ(Record("c1").SerializeAsString(), state.SerializeAsString());
  const Lines log = Log("c1");
  EXPECT_EQ(std::set<std::string>(log.begin(), log.end()),
            (std::set<std::string>{"stdout F out", "stderr F err", "stdout F test-pod"}));

  ASSERT_FALSE(Remove("c1").has_error());
  EXPECT_TRUE(cgroups_.Children().empty());
  EXPECT_FALSE(Remove("c1").has_error()) << "removing what is gone succeeds";
}

TEST_F(SupervisorTest, SignalsReachTheContainer) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "trap 'exit 42' TERM; echo up; while :; do sleep 0.1; done"}});
  ASSERT_TRUE(Eventually([&] { return Log("c1") == Lines{"stdout F up"}; }));
  ASSERT_FALSE(Kill("c1", SIGTERM).has_error());
  EXPECT_EQ(WEXITSTATUS(AwaitExit("c1").wait_status()), 42);
  EXPECT_FALSE(Kill("c1", SIGTERM).has_error()) << "a signal after the end succeeds";

  Run("c2", {.args = {"sleep", "1000"}});
  ASSERT_FALSE(Kill("c2", SIGKILL).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExit("c2").wait_status()), SIGKILL);
  EXPECT_EQ(static_cast<absl::StatusCode>(Kill("none", SIGTERM).error().code()),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(static_cast<absl::StatusCode>(Kill("c2", 999).error().code()),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(SupervisorTest, KillAllEndsEveryProcess) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "sleep 1000 & sleep 1000 & wait"}});
  ASSERT_TRUE(Eventually([&] { return Members("c1").size() == 3; }));
  ASSERT_FALSE(Kill("c1", SIGKILL, true).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExit("c1").wait_status()), SIGKILL);
  EXPECT_TRUE(Members("c1").empty());
}

TEST_F(SupervisorTest, ACommandThatDoesNotExistEndsTheContainerWithAStartError) {
  StartPod();
  ASSERT_FALSE(Create("c1", {.args = {"/no/such/command"}}).has_error());
  const Reply reply = Start("c1");
  ASSERT_TRUE(reply.has_error());
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(reply.error().message(), "/no/such/command"))
      << reply.error().message();
  EXPECT_EQ(reply.error().operation(), "exec");
  EXPECT_EQ(reply.error().error_number(), ENOENT);
  const ContainerState state = AwaitExit("c1");
  EXPECT_EQ(state.start_errno(), ENOENT);
  EXPECT_EQ(WEXITSTATUS(state.wait_status()), 128);
  EXPECT_TRUE(absl::StrContains(state.message(), "/no/such/command"));
  EXPECT_EQ(Record("c1").start_errno(), ENOENT);
  EXPECT_TRUE(Start("c1").has_error());

  ASSERT_FALSE(Create("c2", {.args = {"/etc"}}).has_error());
  EXPECT_EQ(Start("c2").error().error_number(), EACCES);
  EXPECT_EQ(AwaitExit("c2").start_errno(), EACCES);
}

TEST_F(SupervisorTest, AFailedCreationLeavesNothing) {
  StartPod();
  std::ofstream(dir_ + "/file") << "x";
  const Reply reply = Create("c1", {.args = {"true"}, .bind_source = dir_ + "/file/below"});
  ASSERT_TRUE(reply.has_error());
  EXPECT_TRUE(absl::StrContains(reply.error().message(), dir_ + "/file/below"))
      << reply.error().message();
  EXPECT_NE(reply.error().operation(), "");
  EXPECT_NE(reply.error().error_number(), 0);
  EXPECT_TRUE(cgroups_.Children().empty());

  std::ofstream(dir_ + "/log") << "x";
  const Reply no_log = Create("c2", {.args = {"true"}, .log_path = dir_ + "/log/0.log"});
  ASSERT_TRUE(no_log.has_error());
  EXPECT_EQ(no_log.error().error_number(), ENOTDIR);
  EXPECT_TRUE(absl::StrContains(no_log.error().message(), dir_ + "/log/0.log"));
  EXPECT_TRUE(cgroups_.Children().empty());
  // The name is free again. (The upper layer was made for the first attempt: a volatile overlay
  // refuses it a second time.)
  ASSERT_TRUE(sys::RemoveTreeAt(AT_FDCWD, ContainerDir("c2")).ok());
  const Reply again = Create("c2", {.args = {"true"}});
  EXPECT_FALSE(again.has_error()) << again.error().message();
}

TEST_F(SupervisorTest, BadRequestsAreRefusedAndHarmless) {
  StartPod();
  ASSERT_FALSE(Create("c1", {.args = {"sleep", "1000"}}).has_error());
  EXPECT_EQ(static_cast<absl::StatusCode>(Create("c1", {.args = {"true"}}).error().code()),
            absl::StatusCode::kAlreadyExists);
  const auto create = [&](const std::string& id, const std::string& dir, std::vector<int> fds) {
    return static_cast<absl::StatusCode>(Call(
                                             [&](ToSupervisor* r) {
                                               r->mutable_create_container()->set_container_id(id);
                                               r->mutable_create_container()->set_container_dir(
                                                   dir);
                                             },
                                             fds)
                                             .error()
                                             .code());
  };
  const sys::UniqueFd garbage = Memfd("plan", std::string(4096, 'x'));
  const sys::UniqueFd empty = Memfd("plan", "");
  const std::string dir = ContainerDir("c1");
  EXPECT_EQ(create("", dir, {garbage.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create("c2", "relative", {garbage.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create("c2", dir, {}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create("c2", dir + "x", {garbage.get()}), absl::StatusCode::kNotFound);
  ASSERT_TRUE(sys::MakeDirs(ContainerDir("c2"), 0755).ok());
  EXPECT_EQ(create("c2", ContainerDir("c2"), {garbage.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(create("c2", ContainerDir("c2"), {empty.get()}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(static_cast<absl::StatusCode>(Start("none").error().code()),
            absl::StatusCode::kNotFound);
  EXPECT_EQ(static_cast<absl::StatusCode>(Exec("c1", "e", {.args = {"true"}}).error().code()),
            absl::StatusCode::kFailedPrecondition)
      << "it is created, not running";
  EXPECT_EQ(static_cast<absl::StatusCode>(Call([](ToSupervisor*) {}).error().code()),
            absl::StatusCode::kUnimplemented);
  EXPECT_FALSE(Start("c1").has_error());
}

TEST_F(SupervisorTest, EventsAndExitCodesOutliveTheDaemon) {
  StartPod();
  const int running = Run("c1", {.args = {"sleep", "1000"}});
  Run("c2", {.args = {"sh", "-c", "while [ ! -e /data/go ]; do sleep 0.01; done; echo bye; exit 3"},
             .bind_source = dir_ + "/share"});
  socket_.reset();
  std::ofstream(dir_ + "/share/go") << "";
  ASSERT_TRUE(Eventually([&] { return Record("c2").phase() == ContainerState::EXITED; }));
  Reconnect();
  ASSERT_EQ(hello_.hello().containers_size(), 2);
  const ContainerState c1 = hello_.hello().containers(0), c2 = hello_.hello().containers(1);
  EXPECT_EQ(c1.phase(), ContainerState::RUNNING);
  EXPECT_EQ(c1.pid(), running);
  EXPECT_EQ(c2.phase(), ContainerState::EXITED);
  EXPECT_EQ(WEXITSTATUS(c2.wait_status()), 3);
  ASSERT_TRUE(Eventually([&] { return Log("c2") == Lines{"stdout F bye"}; }));
  // A second daemon takes over from one that hangs.
  const sys::UniqueFd hung = std::move(socket_);
  Reconnect();
  EXPECT_EQ(hello_.hello().containers_size(), 2);
  EXPECT_FALSE(Kill("c1", SIGKILL).has_error());
  AwaitExit("c1");
}

TEST_F(SupervisorTest, SignalsToTheSupervisorDoNotEndIt) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  for (const int signal : {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGPIPE, SIGALRM}) {
    ASSERT_EQ(kill(pid_, signal), 0);
  }
  EXPECT_TRUE(
      Call([](ToSupervisor* r) { r->mutable_hello()->set_protocol_version(1); }).has_hello());
}

TEST_F(SupervisorTest, LogsAreReopenedAfterRotation) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "i=0; while [ ! -e /data/stop ]; do echo $i; i=$((i+1)); done"},
             .bind_source = dir_ + "/share"});
  const auto reopen = [&] {
    return Call([](ToSupervisor* r) { r->mutable_reopen_log()->set_container_id("c1"); });
  };
  std::string text;
  for (int i = 0; i < 5; ++i) {
    ASSERT_TRUE(Eventually([&] { return !Log("c1").empty(); }));
    ASSERT_EQ(rename(LogPath("c1").c_str(), (LogPath("c1") + ".old").c_str()), 0);
    const Reply reopened = reopen();
    ASSERT_FALSE(reopened.has_error()) << reopened.error().message();
    text += ReadFile(LogPath("c1") + ".old");
  }
  std::ofstream(dir_ + "/share/stop") << "";
  AwaitExit("c1");
  text += ReadFile(LogPath("c1"));
  int next = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
    ASSERT_EQ(line.substr(31), absl::StrCat("stdout F ", next));
    ++next;
  }
  EXPECT_GT(next, 5);
  EXPECT_EQ(static_cast<absl::StatusCode>(reopen().error().code()),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SupervisorTest, AnExecRunsInTheContainerWithTheCallersStdio) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Streams streams;
  const Reply reply =
      Exec("c1", "e1", {.args = {"sh", "-c", "hostname; echo e >&2; exit 5"}}, &streams);
  ASSERT_FALSE(reply.has_error()) << reply.error().message();
  EXPECT_EQ(ReadAll(streams.out), "test-pod\n");
  EXPECT_EQ(ReadAll(streams.err), "e\n");
  const auto exited = AwaitExecExit("e1");
  EXPECT_EQ(WEXITSTATUS(exited.wait_status()), 5);
  EXPECT_FALSE(exited.timed_out());
  EXPECT_EQ(Output("c1", {"readlink", "/proc/self/ns/pid"}),
            Output("c1", {"readlink", "/proc/1/ns/pid"}));
  EXPECT_TRUE(absl::StrContains(Output("c1", {"ps"}), "sleep 1000"));
  // Without any stdio it reads and writes /dev/null.
  ASSERT_FALSE(Exec("c1", "e2", {.args = {"sh", "-c", "cat; echo x"}}).has_error());
  EXPECT_EQ(AwaitExecExit("e2").wait_status(), 0);
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));
}

TEST_F(SupervisorTest, AnExecOfAMissingCommandNamesIt) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  const Reply reply = Exec("c1", "e1", {.args = {"nothing-here"}});
  ASSERT_TRUE(reply.has_error());
  EXPECT_TRUE(absl::StrContains(reply.error().message(), "nothing-here"))
      << reply.error().message();
  EXPECT_EQ(reply.error().error_number(), ENOENT);
  EXPECT_EQ(reply.error().operation(), "exec");
  EXPECT_EQ(Output("c1", {"echo", "fine"}), "fine\n");
}

TEST_F(SupervisorTest, ATimeoutKillsEveryProcessOfTheExec) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Streams streams;
  // One that left the session, one that ignores signals, and both hold the pipe.
  ASSERT_FALSE(
      Exec("c1", "e1",
           {.args = {"sh", "-c", "trap '' TERM HUP; (busybox setsid sleep 1000 &) ; sleep 1000"},
            .timeout_ms = 300},
           &streams)
          .has_error());
  const auto exited = AwaitExecExit("e1");
  EXPECT_TRUE(exited.timed_out());
  EXPECT_EQ(WTERMSIG(exited.wait_status()), SIGKILL);
  EXPECT_EQ(ReadAll(streams.out), "");  // ends: nobody holds it any more
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));
  EXPECT_EQ(Output("c1", {"echo", "alive"}), "alive\n");
}

TEST_F(SupervisorTest, AnExecEndsAlthoughADescendantHoldsItsPipe) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  Streams streams;
  ASSERT_FALSE(
      Exec("c1", "e1", {.args = {"sh", "-c", "sleep 1000 & echo started"}}, &streams).has_error());
  const auto exited = AwaitExecExit("e1");
  EXPECT_EQ(exited.wait_status(), 0);
  EXPECT_FALSE(exited.timed_out());
  // It goes on running, as it does in peers, and goes with the container.
  EXPECT_EQ(Members("c1").size(), 2u);
  ASSERT_FALSE(Remove("c1").has_error());
  EXPECT_TRUE(cgroups_.Children().empty());
}

TEST_F(SupervisorTest, CancelAndALostConnectionKillExecs) {
  StartPod();
  Run("c1", {.args = {"sleep", "1000"}});
  ASSERT_FALSE(Exec("c1", "e1", {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}}).has_error());
  ASSERT_FALSE(
      Call([](ToSupervisor* r) { r->mutable_cancel_exec()->set_exec_id("e1"); }).has_error());
  EXPECT_EQ(WTERMSIG(AwaitExecExit("e1").wait_status()), SIGKILL);
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));

  ASSERT_FALSE(Exec("c1", "e2", {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}}).has_error());
  ASSERT_TRUE(Eventually([&] { return Members("c1").size() == 3; }));
  socket_.reset();
  EXPECT_TRUE(Eventually([&] { return Members("c1").size() == 1; }));
  Reconnect();
  EXPECT_EQ(hello_.hello().containers(0).phase(), ContainerState::RUNNING);
}

TEST_F(SupervisorTest, AnOomKillIsToldAndRecorded) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "x=$(yes | head -c 200000000); echo survived"},
             .memory_limit = 16 << 20});
  const ContainerState state = AwaitExit("c1");
  EXPECT_TRUE(state.oom_killed());
  EXPECT_NE(state.wait_status(), 0);
  EXPECT_TRUE(Record("c1").oom_killed());
  FromSupervisor event;
  EXPECT_TRUE(AwaitEvent([](const FromSupervisor& e) { return e.has_out_of_memory(); }, &event));
  EXPECT_EQ(event.out_of_memory().container_id(), "c1");
}

TEST_F(SupervisorTest, ATerminalIsLoggedAndAnExecGetsItsMaster) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "tty; echo line; sleep 1000"}, .tty = true});
  ASSERT_TRUE(Eventually([&] { return Log("c1").size() == 2; }));
  EXPECT_EQ(Log("c1")[1], "stdout F line");
  const Reply reply =
      Exec("c1", "e1", {.args = {"sh", "-c", "tty && stty size && exit 9"}, .tty = true});
  ASSERT_FALSE(reply.has_error()) << reply.error().message();
  ASSERT_EQ(reply_fds_.size(), 1u);
  std::string text;
  char buffer[512];
  for (ssize_t n; (n = read(reply_fds_[0].get(), buffer, sizeof buffer)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  EXPECT_TRUE(absl::StrContains(text, "/dev/pts/")) << text;
  EXPECT_EQ(WEXITSTATUS(AwaitExecExit("e1").wait_status()), 9);
}

TEST_F(SupervisorTest, StdinStaysOpenWhenItIsAskedFor) {
  StartPod();
  Run("c1", {.args = {"sh", "-c", "cat; echo end"}});  // /dev/null
  EXPECT_EQ(AwaitExit("c1").wait_status(), 0);
  Run("c2", {.args = {"sh", "-c", "echo up; cat; echo end"}, .stdin = true});
  ASSERT_TRUE(Eventually([&] { return Log("c2") == Lines{"stdout F up"}; }));
  ASSERT_FALSE(Kill("c2", SIGKILL).has_error());
  AwaitExit("c2");
  EXPECT_EQ(Log("c2"), Lines{"stdout F up"});
}

TEST_F(SupervisorTest, ASharedPidNamespaceHasDavitInitAsItsFirstProcess) {
  StartPod([&](PodConfig* config) {
    config->set_shared_pid_namespace(true);
    config->set_init_cgroup(cgroups_.unified());
  });
  const int init = hello_.hello().init_pid();
  ASSERT_GT(init, 0);
  Run("c1", {.args = {"sleep", "1000"}, .share_pid = true});
  Run("c2", {.args = {"sh", "-c", "sleep 2000 & sleep 3000"}, .share_pid = true});
  ASSERT_TRUE(Eventually([&] { return Members("c2").size() == 2; }));
  const std::string processes = Output("c1", {"ps"});
  for (const char* expected : {"davit-init", "sleep 1000", "sleep 2000", "sleep 3000"}) {
    EXPECT_TRUE(absl::StrContains(processes, expected)) << processes;
  }
  // Its init gone, the rest of a container goes too, though its PID namespace lives on.
  ASSERT_FALSE(Kill("c2", SIGKILL).has_error());
  AwaitExit("c2");
  EXPECT_TRUE(Eventually([&] { return Members("c2").empty(); }));
  EXPECT_EQ(Members("c1").size(), 1u);
  ASSERT_FALSE(Remove("c2").has_error());

  // If somebody kills the init from outside, everything in the namespace ends, and is told.
  ASSERT_EQ(kill(init, SIGKILL), 0);
  EXPECT_EQ(WTERMSIG(AwaitExit("c1").wait_status()), SIGKILL);
  ASSERT_TRUE(Eventually([&] { return !Exists(absl::StrCat("/proc/", init)); }));
  EXPECT_EQ(static_cast<absl::StatusCode>(
                Create("c3", {.args = {"true"}, .share_pid = true}).error().code()),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(SupervisorTest, TheSupervisorIsAMemberOfThePodsNamespaces) {
  StartPod([&](PodConfig* config) {
    config->set_new_network_namespace(true);
    config->set_netns_path(netns_path());
    (*config->mutable_sysctls())["net.ipv4.ip_unprivileged_port_start"] = "77";
    (*config->mutable_sysctls())["kernel.shm_rmid_forced"] = "1";
  });
  ASSERT_TRUE(hello_.has_hello()) << hello_.error().message();
  for (const char* ns : {"net", "ipc", "uts"}) {
    EXPECT_NE(LinkOf(absl::StrCat("/proc/", pid_, "/ns/", ns)),
              LinkOf(absl::StrCat("/proc/self/ns/", ns)));
  }
  for (const char* ns : {"mnt", "pid", "user", "cgroup"}) {
    EXPECT_EQ(LinkOf(absl::StrCat("/proc/", pid_, "/ns/", ns)),
              LinkOf(absl::StrCat("/proc/self/ns/", ns)));
  }
  // The binding is that namespace.
  struct stat bound, own;
  ASSERT_EQ(stat(netns_path().c_str(), &bound), 0);
  ASSERT_EQ(stat(absl::StrCat("/proc/", pid_, "/ns/net").c_str(), &own), 0);
  EXPECT_EQ(bound.st_ino, own.st_ino);
  Run("c1", {.args = {"sleep", "1000"}});
  EXPECT_EQ(Output("c1", {"cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"}), "77\n");
  EXPECT_EQ(Output("c1", {"cat", "/proc/sys/kernel/shm_rmid_forced"}), "1\n");
  EXPECT_NE(ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "77\n");
  EXPECT_EQ(Output("c1", {"busybox", "ping", "-c", "1", "-q", "127.0.0.1"})
                .find("Network is unreachable"),
            std::string::npos);
  EXPECT_TRUE(absl::StrContains(Output("c1", {"busybox", "ip", "addr", "show", "lo"}), "UP"));
}

TEST_F(SupervisorTest, ContainersOfAPodShareItsMemoryFileSystem) {
  StartPod([](PodConfig* config) { config->set_shm_size(1 << 20); });
  Run("c1", {.args = {"sleep", "1000"}});
  Run("c2", {.args = {"sleep", "1000"}});
  EXPECT_EQ(Output("c1", {"sh", "-c", "echo shared > /dev/shm/x; echo $?"}), "0\n");
  EXPECT_EQ(Output("c2", {"cat", "/dev/shm/x"}), "shared\n");
  EXPECT_FALSE(Exists("/dev/shm/x"));
}

TEST_F(SupervisorTest, APodThatCannotBeSetUpSaysWhy) {
  PodConfig config;
  config.set_sandbox_id("pod1");
  config.set_pod_dir(dir_ + "/pod");
  config.set_new_network_namespace(true);
  config.set_netns_path(netns_path());
  (*config.mutable_sysctls())["net.no_such.key"] = "1";
  SpawnPod(config);
  const Reply reply =
      Call([](ToSupervisor* request) { request->mutable_hello()->set_protocol_version(1); });
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()), absl::StatusCode::kNotFound);
  EXPECT_TRUE(absl::StrContains(reply.error().message(), "net.no_such.key"))
      << reply.error().message();
  auto status = sys::WaitPidfd(pidfd_.get(), absl::Now() + kPatience);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(WEXITSTATUS(*status), 1);
  EXPECT_FALSE(Exists(netns_path()));
  EXPECT_EQ(Mounts(), std::set<std::string>());
  pid_ = 0;
}

TEST_F(SupervisorTest, ShutdownEndsWhateverRuns) {
  StartPod([&](PodConfig* config) {
    config->set_shared_pid_namespace(true);
    config->set_new_network_namespace(true);
    config->set_netns_path(netns_path());
  });
  const int init = hello_.hello().init_pid();
  const int own = Run("c1", {.args = {"sleep", "1000"}});
  const int shared = Run("c2", {.args = {"sh", "-c", "sleep 1000 & wait"}, .share_pid = true});
  ASSERT_FALSE(Create("c3", {.args = {"sleep", "1000"}}).has_error());  // never started
  ASSERT_FALSE(Exec("c1", "e1", {.args = {"sleep", "1000"}}).has_error());
  Run("c4", {.args = {"true"}});
  AwaitExit("c4");
  ASSERT_TRUE(Shutdown());
  for (const int pid : {init, own, shared}) EXPECT_FALSE(Exists(absl::StrCat("/proc/", pid)));
  EXPECT_EQ(Mounts(), std::set<std::string>());
  EXPECT_TRUE(cgroups_.Children().empty());
}

TEST_F(SupervisorTest, RequestsForManyContainersMayBeInFlightAtOnce) {
  StartPod();
  constexpr int kContainers = 12;
  std::vector<uint64_t> ids;
  for (int i = 0; i < kContainers; ++i) {
    ids.push_back(SendCreate(absl::StrCat("c", i), {.args = {"sh", "-c", "echo $0; exit 4"}}));
  }
  std::set<uint64_t> answered;
  while (answered.size() < ids.size()) {
    FromSupervisor message;
    ASSERT_TRUE(Receive(&message, nullptr));
    ASSERT_FALSE(message.reply().has_error()) << message.reply().error().message();
    answered.insert(message.reply().request_id());
  }
  for (int i = 0; i < kContainers; ++i) {
    ASSERT_FALSE(Start(absl::StrCat("c", i)).has_error());
  }
  for (int i = 0; i < kContainers; ++i) {
    EXPECT_EQ(WEXITSTATUS(AwaitExit(absl::StrCat("c", i)).wait_status()), 4);
  }
  // Nothing of them stays open in the supervisor once they are removed.
  const auto descriptors = [&] {
    auto listed =
        sys::RunCommand({.path = "/bin/ls", .argv = {"ls", absl::StrCat("/proc/", pid_, "/fd")}},
                        "", 1 << 16, absl::Now() + kPatience);
    const std::vector<std::string> lines = absl::StrSplit(listed->out, '\n', absl::SkipEmpty());
    return lines.size();
  };
  const size_t before = descriptors();
  for (int i = 0; i < kContainers; ++i) {
    const Reply removed = Remove(absl::StrCat("c", i));
    ASSERT_FALSE(removed.has_error()) << removed.error().message();
  }
  EXPECT_TRUE(Eventually([&] { return descriptors() + kContainers <= before; }));
  EXPECT_TRUE(cgroups_.Children().empty());
}

// A file system whose server never answers: every look-up in it hangs until the one who asks is
// killed, as on a dead NFS server.
class HungFileSystem {
 public:
  explicit HungFileSystem(const std::string& path) : path_(path) {
    device_.reset(open("/dev/fuse", O_RDWR | O_CLOEXEC));
    EXPECT_TRUE(device_.ok());
    EXPECT_EQ(mkdir(path.c_str(), 0755), 0);
    const std::string options =
        absl::StrCat("fd=", device_.get(), ",rootmode=40000,user_id=0,group_id=0");
    EXPECT_EQ(mount("hung", path.c_str(), "fuse", 0, options.c_str()), 0);
  }
  ~HungFileSystem() {
    EXPECT_EQ(umount2(path_.c_str(), MNT_DETACH), 0);
    device_.reset();
  }

 private:
  std::string path_;
  sys::UniqueFd device_;
};

TEST_F(SupervisorTest, AHungBindSourceHoldsUpNothingButItsOwnContainer) {
  StartPod();
  HungFileSystem hung(dir_ + "/hung");
  const uint64_t request =
      SendCreate("c1", {.args = {"true"}, .bind_source = dir_ + "/hung/x", .timeout_ms = 500});
  Run("c2", {.args = {"echo", "meanwhile"}});
  AwaitExit("c2");
  const Reply reply = AwaitReply(request);
  EXPECT_EQ(static_cast<absl::StatusCode>(reply.error().code()),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_TRUE(absl::StrContains(reply.error().message(), dir_ + "/hung/x"))
      << reply.error().message();
  // Removing one that hangs gives its creation up at once.
  const uint64_t second =
      SendCreate("c3", {.args = {"true"}, .bind_source = dir_ + "/hung/x", .timeout_ms = 60000});
  EXPECT_FALSE(Remove("c3").has_error());
  ASSERT_FALSE(Remove("c2").has_error());
  EXPECT_TRUE(cgroups_.Children().empty());
  Reconnect();
  EXPECT_EQ(hello_.hello().containers_size(), 0);
  (void)second;
}

TEST_F(SupervisorTest, TheNamespacesOfAPodWithAUserNamespaceBelongToIt) {
  StartPod([&](PodConfig* config) {
    for (auto* maps : {config->mutable_uid_maps(), config->mutable_gid_maps()}) {
      auto* map = maps->Add();
      map->set_container_id(0);
      map->set_host_id(200000);
      map->set_size(65536);
    }
    config->set_new_network_namespace(true);
    config->set_netns_path(netns_path());
    config->set_shared_pid_namespace(true);
    config->set_init_cgroup(cgroups_.unified());
    (*config->mutable_sysctls())["net.ipv4.ip_unprivileged_port_start"] = "99";
  });
  ASSERT_TRUE(hello_.has_hello()) << hello_.error().message();
  const int init = hello_.hello().init_pid();
  const std::string user = LinkOf(absl::StrCat("/proc/", init, "/ns/user"));
  EXPECT_NE(user, LinkOf("/proc/self/ns/user"));
  EXPECT_EQ(LinkOf(absl::StrCat("/proc/", pid_, "/ns/user")), LinkOf("/proc/self/ns/user"));
  for (const char* type : {"net", "ipc", "uts"}) {
    const sys::UniqueFd ns(
        open(absl::StrCat("/proc/", pid_, "/ns/", type).c_str(), O_RDONLY | O_CLOEXEC));
    const sys::UniqueFd owner(ioctl(ns.get(), NS_GET_USERNS));
    ASSERT_TRUE(owner.ok()) << type;
    EXPECT_EQ(LinkOf(absl::StrCat("/proc/self/fd/", owner.get())), user) << type;
  }
}

// Whatever a dying daemon leaves half asked for, the next one finds a supervisor in order.
TEST_F(SupervisorTest, ADaemonMayDieAtAnyMoment) {
  StartPod();
  Run("base", {.args = {"sleep", "1000"}});
  for (int round = 0; round < 40; ++round) {
    const std::string id = absl::StrCat("c", round);
    SendCreate(id, {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}});
    if (round % 4 >= 1) {
      SendRequest([&](ToSupervisor* r) { r->mutable_start_container()->set_container_id(id); });
    }
    if (round % 4 >= 2) {
      const sys::UniqueFd plan =
          Memfd("plan", ExecPlan("base", id, {.args = {"sh", "-c", "sleep 1000 & sleep 1000"}}));
      SendRequest(
          [&](ToSupervisor* r) {
            r->mutable_exec()->set_exec_id(id);
            r->mutable_exec()->set_container_id("base");
          },
          {plan.get()});
    }
    if (round % 4 == 3) {
      SendRequest([&](ToSupervisor* r) { r->mutable_remove_container()->set_container_id(id); });
    }
    usleep(static_cast<useconds_t>(round * 150));
    socket_.reset();
    Reconnect();
    ASSERT_TRUE(hello_.has_hello());
  }
  for (int round = 0; round < 40; ++round) {
    const Reply removed = Remove(absl::StrCat("c", round));
    EXPECT_FALSE(removed.has_error()) << removed.error().message();
  }
  EXPECT_TRUE(Eventually([&] { return Members("base").size() == 1; }));
  Reconnect();
  ASSERT_EQ(hello_.hello().containers_size(), 1);
  EXPECT_EQ(hello_.hello().containers(0).phase(), ContainerState::RUNNING);
  EXPECT_EQ(Output("base", {"echo", "fine"}), "fine\n");
}

}  // namespace
}  // namespace davit::sandbox
