// A supervisor for tests that speaks the protocol, and breaks it when it is told to: what it does
// when it is asked to create a container is said by the name of that container's log file. Started
// as davit-pod is. Makes no namespaces and no processes.

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <map>
#include <span>
#include <string>
#include <vector>

#include "proto/supervisor.pb.h"
#include "runtime/plan/plan.h"
#include "runtime/sys/file.h"
#include "runtime/sys/socket.h"

namespace davit::sandbox {
namespace {

using supervisor::v1::ContainerState;
using supervisor::v1::FromSupervisor;
using supervisor::v1::Reply;
using supervisor::v1::ToSupervisor;

constexpr int kConnection = 3;
constexpr int kConfig = 4;
constexpr size_t kMaxConfig = 1024 * 1024;

class Rogue {
 public:
  explicit Rogue(supervisor::v1::PodConfig config)
      : config_(std::move(config)), connection_(kConnection) {}

  int Run() {
    auto listener = sys::SeqpacketListen(config_.pod_dir() + "/supervisor.sock", 16);
    if (!listener.ok()) return 1;
    for (;;) {
      pollfd fds[] = {{listener->get(), POLLIN, 0}, {connection_.get(), POLLIN, 0}};
      const int ready = poll(fds, 2, flooding_ ? 0 : -1);
      if (ready < 0) return 1;
      if (flooding_) Flood();
      if (fds[0].revents != 0) {
        connection_.reset(accept4(listener->get(), nullptr, nullptr, SOCK_CLOEXEC));
        flooding_ = false;
      } else if (fds[1].revents != 0) {
        Receive();
      }
    }
  }

 private:
  void Receive() {
    auto packet = sys::ReceivePacket(connection_.get());
    ToSupervisor request;
    if (!packet.ok() || !request.ParseFromString(packet->data)) return connection_.reset();
    FromSupervisor message;
    Reply* reply = message.mutable_reply();
    reply->set_request_id(request.request_id());
    switch (request.request_case()) {
      case ToSupervisor::kHello:
        reply->mutable_hello()->set_protocol_version(1);
        reply->mutable_hello()->set_plan_version(runtime::plan::kPlanVersion);
        reply->mutable_hello()->set_pid(getpid());
        reply->mutable_hello()->set_sandbox_id(config_.sandbox_id());
        for (const auto& [id, state] : containers_)
          *reply->mutable_hello()->add_containers() = state;
        return Send(message);
      case ToSupervisor::kCreateContainer:
        return Create(request.create_container(), message);
      case ToSupervisor::kKillContainer:
        Send(message);
        return Exit(request.kill_container().container_id());
      case ToSupervisor::kRemoveContainer:
        Exit(request.remove_container().container_id());
        containers_.erase(request.remove_container().container_id());
        return Send(message);
      case ToSupervisor::kShutdown:
        Send(message);
        _exit(0);
      default:
        reply->mutable_error()->set_code(12);
        reply->mutable_error()->set_message("not known here");
        return Send(message);
    }
  }

  void Create(const supervisor::v1::CreateContainer& create, FromSupervisor message) {
    const std::string& log = create.log_path();
    const size_t name = log.rfind('/') + 1;
    const std::string mode = log.substr(name, log.rfind('.') - name);
    Reply* reply = message.mutable_reply();
    reply->mutable_create_container()->set_pid(0);
    ContainerState& state = containers_[create.container_id()];
    state.set_container_id(create.container_id());
    state.set_phase(ContainerState::CREATED);
    if (mode == "garbage") return SendRaw("\xff\xff\xff\xff");
    if (mode == "truncated") {
      const std::string whole = message.SerializeAsString();
      return SendRaw(whole.substr(0, whole.size() - 1));
    }
    if (mode == "oversize") return SendRaw(std::string(sys::kMaxPacket + 100, 'x'));
    if (mode == "empty") return SendRaw("");
    if (mode == "kind") reply->mutable_start_container()->set_started_at(1);
    if (mode == "sequence") reply->set_request_id(reply->request_id() + 1000);
    if (mode == "utf8") {
      reply->mutable_error()->set_code(13);
      reply->mutable_error()->set_message("cut in the middle of a gr\xc3");
    }
    if (mode == "code") {
      reply->mutable_error()->set_code(-4711);
      reply->mutable_error()->set_message("no such code");
    }
    if (mode == "pid") {
      reply->mutable_create_container()->set_pid(getppid());
      state.set_pid(getppid());
    }
    if (mode == "descriptors") {
      const int fds[] = {STDERR_FILENO, kConfig, STDERR_FILENO};
      sys::SendPacket(connection_.get(), message.SerializeAsString(), fds).IgnoreError();
      return;
    }
    Send(message);
    if (mode == "flood") flooding_ = true;
    if (mode == "mute") raise(SIGSTOP);
    if (mode == "state") {
      FromSupervisor event;
      ContainerState* wrong = event.mutable_container_exited()->mutable_state();
      wrong->set_container_id(create.container_id());
      wrong->set_phase(static_cast<ContainerState::Phase>(99));
      wrong->set_pid(-1);
      wrong->set_finished_at(-1);
      Send(event);
      wrong->set_container_id(std::string(1000, '/'));
      Send(event);
    }
  }

  void Exit(const std::string& id) {
    const auto it = containers_.find(id);
    if (it == containers_.end() || it->second.phase() == ContainerState::EXITED) return;
    it->second.set_phase(ContainerState::EXITED);
    it->second.set_pid(0);
    it->second.set_finished_at(1);
    it->second.set_wait_status(SIGKILL);
    FromSupervisor event;
    *event.mutable_container_exited()->mutable_state() = it->second;
    Send(event);
  }

  void Flood() {
    FromSupervisor event;
    event.mutable_out_of_memory()->set_container_id("whoever");
    for (int i = 0; i < 100; ++i) Send(event);
  }

  void Send(const FromSupervisor& message) { SendRaw(message.SerializeAsString()); }
  // Not by SendPacket, which keeps to the protocol.
  void SendRaw(const std::string& bytes) {
    send(connection_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }

  const supervisor::v1::PodConfig config_;
  sys::UniqueFd connection_;
  std::map<std::string, ContainerState> containers_;
  bool flooding_ = false;
};

}  // namespace
}  // namespace davit::sandbox

int main() {
  using davit::sandbox::kConfig;
  const auto bytes = davit::sys::ReadFd(kConfig, davit::sandbox::kMaxConfig, "the configuration");
  davit::supervisor::v1::PodConfig config;
  if (!bytes.ok() || !config.ParseFromString(*bytes)) return 1;
  return davit::sandbox::Rogue(std::move(config)).Run();
}
