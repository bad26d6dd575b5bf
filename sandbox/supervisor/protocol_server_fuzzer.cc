// What davitd, or somebody in its place, may send to a supervisor: any packets. Each is two bytes
// of length and its content; the highest bit of the length says that it comes with a descriptor.

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "runtime/sys/fuzzing/fuzzer.h"
#include "runtime/sys/socket.h"
#include "sandbox/supervisor/protocol_server.h"

namespace davit::fuzzing {
namespace {

using supervisor::v1::ToSupervisor;

// Answers every request, and tells an event now and then.
class Handler final : public sandbox::ProtocolServer::Handler {
 public:
  void OnRequest(sandbox::ProtocolServer::ConnectionId connection, const ToSupervisor& request,
                 std::vector<sys::UniqueFd> fds) override {
    DAVIT_FUZZ_CHECK(!disconnected_);
    supervisor::v1::Reply reply;
    reply.set_request_id(request.request_id());
    if (request.has_hello()) {
      reply.mutable_hello()->set_protocol_version(1);
    } else {
      reply.mutable_error()->set_message(request.create_container().log_path());
    }
    server->Reply(connection, reply, std::move(fds));
    supervisor::v1::FromSupervisor event;
    event.mutable_container_exited()->mutable_state()->set_container_id("c");
    server->SendEvent(event);
  }
  void OnDisconnected(sandbox::ProtocolServer::ConnectionId /*connection*/) override {
    DAVIT_FUZZ_CHECK(!disconnected_);
    disconnected_ = true;
  }
  bool disconnected() const { return disconnected_; }

  sandbox::ProtocolServer* server = nullptr;

 private:
  bool disconnected_ = false;
};

std::string Packet(const ToSupervisor& message) {
  const std::string bytes = message.SerializeAsString();
  return std::string(
             {static_cast<char>(bytes.size() & 0xff), static_cast<char>(bytes.size() >> 8)}) +
         bytes;
}

}  // namespace

std::vector<std::string> Seeds() {
  ToSupervisor hello;
  hello.set_request_id(1);
  hello.mutable_hello()->set_protocol_version(1);
  ToSupervisor create;
  create.set_request_id(2);
  create.mutable_create_container()->set_container_id("c");
  create.mutable_create_container()->set_log_path("/l");
  ToSupervisor start;
  start.set_request_id(3);
  start.mutable_start_container()->set_container_id("c");
  ToSupervisor kill;
  kill.set_request_id(4);
  kill.mutable_kill_container()->set_signal(9);
  ToSupervisor exec;
  exec.set_request_id(5);
  exec.mutable_exec()->set_exec_id("e");
  exec.mutable_exec()->set_tty(true);
  ToSupervisor shutdown;
  shutdown.set_request_id(6);
  shutdown.mutable_shutdown();
  return {Packet(hello) + Packet(create) + Packet(start) + Packet(kill) + Packet(exec) +
              Packet(shutdown),
          Packet(create), Packet(hello) + Packet(hello)};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace sandbox = davit::sandbox;
  namespace sys = davit::sys;
  static const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  static const std::string path = absl::StrCat("/tmp/davit-fuzz-", getpid(), ".sock");

  const auto loop = *sandbox::EventLoop::Create();
  auto pair = *sys::SeqpacketPair();
  fcntl(pair.first.get(), F_SETFL, O_NONBLOCK);
  davit::fuzzing::Handler handler;
  auto server = *sandbox::ProtocolServer::Start(loop.get(), &handler, path, std::move(pair.second));
  handler.server = server.get();
  while (size >= 2) {
    const size_t header = data[0] + size_t{256} * data[1];
    data += 2, size -= 2;
    const size_t length = std::min(header & 0x7fff, size);
    const int fds[] = {null};
    const bool with_fd = (header & 0x8000) != 0;
    (void)sys::SendPacket(pair.first.get(),
                          absl::string_view(reinterpret_cast<const char*>(data), length),
                          with_fd ? std::span<const int>(fds) : std::span<const int>());
    data += length, size -= length;
    loop->RunOnce(absl::ZeroDuration());
  }
  // What came back is davitd's to read; half of the time it does not.
  if ((size & 1) == 0) {
    while (sys::ReceivePacket(pair.first.get()).ok()) {
    }
  }
  pair.first.reset();
  for (int i = 0; i < 100 && !handler.disconnected(); ++i) loop->RunOnce(absl::ZeroDuration());
  DAVIT_FUZZ_CHECK(handler.disconnected());
  server.reset();
  return 0;
}
