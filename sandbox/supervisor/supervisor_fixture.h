#ifndef DAVIT_SANDBOX_SUPERVISOR_SUPERVISOR_FIXTURE_H_
#define DAVIT_SANDBOX_SUPERVISOR_SUPERVISOR_FIXTURE_H_

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
#include "sandbox/supervisor/test_cgroups.h"

// Drives the built davit-pod as davitd does, over its socket, with containers made of busybox.
namespace davit::sandbox {

struct ContainerOptions {
  std::vector<std::string> args;
  bool tty = false;
  bool stdin = false;
  bool share_pid = false;
  std::string pid_target;  // another container
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
    if (!options.share_pid && options.pid_target.empty())
      spec.linux_.namespaces.push_back({NamespaceType::kPid, ""});
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
    inputs.join_pid_namespace = options.share_pid || !options.pid_target.empty();
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
          create->set_pid_target(options.pid_target);
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
    std::string out = ReadAll(streams.out);
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

}  // namespace davit::sandbox

#endif  // DAVIT_SANDBOX_SUPERVISOR_SUPERVISOR_FIXTURE_H_
