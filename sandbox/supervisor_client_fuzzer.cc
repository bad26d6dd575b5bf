// What a supervisor may send to davitd: any packets, while requests of every kind are in flight.
// Each is two bytes of length and its content; the highest bit of the length says that it comes
// with a descriptor.

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "proto/supervisor.pb.h"
#include "runtime/sys/fuzzing/fuzzer.h"
#include "runtime/sys/socket.h"
#include "sandbox/supervisor_client.h"

namespace davit::fuzzing {
namespace {

using supervisor::v1::FromSupervisor;
using supervisor::v1::ToSupervisor;

std::string Packet(const FromSupervisor& message) {
  const std::string bytes = message.SerializeAsString();
  return std::string(
             {static_cast<char>(bytes.size() & 0xff), static_cast<char>(bytes.size() >> 8)}) +
         bytes;
}

std::vector<ToSupervisor> Requests() {
  std::vector<ToSupervisor> requests(5);
  requests[0].mutable_hello();
  requests[1].mutable_create_container()->set_container_id("c");
  requests[2].mutable_start_container()->set_container_id("c");
  requests[3].mutable_exec()->set_exec_id("e");
  requests[4].mutable_exec()->set_exec_id("t");
  requests[4].mutable_exec()->set_tty(true);
  return requests;
}

}  // namespace

std::vector<std::string> Seeds() {
  FromSupervisor hello;
  hello.mutable_reply()->set_request_id(1);
  hello.mutable_reply()->mutable_hello()->set_sandbox_id("s");
  hello.mutable_reply()->mutable_hello()->add_containers()->set_container_id("c");
  FromSupervisor created;
  created.mutable_reply()->set_request_id(2);
  created.mutable_reply()->mutable_create_container()->set_pid(1);
  FromSupervisor failed;
  failed.mutable_reply()->set_request_id(3);
  failed.mutable_reply()->mutable_error()->set_code(5);
  failed.mutable_reply()->mutable_error()->set_message("no");
  FromSupervisor started;
  started.mutable_reply()->set_request_id(4);
  started.mutable_reply()->mutable_exec()->set_pid(3);
  FromSupervisor exec_exited;
  exec_exited.mutable_exec_exited()->set_exec_id("e");
  FromSupervisor exited;
  exited.mutable_container_exited()->mutable_state()->set_container_id("c");
  FromSupervisor memory;
  memory.mutable_out_of_memory()->set_container_id("c");
  return {Packet(hello) + Packet(created) + Packet(failed) + Packet(started) + Packet(exec_exited) +
              Packet(exited) + Packet(memory),
          Packet(exited), Packet(exec_exited) + Packet(started)};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace sandbox = davit::sandbox;
  namespace sys = davit::sys;
  // One loop for all: what one connection left behind must not disturb the next.
  static const std::unique_ptr<sandbox::IoLoop> loop = *sandbox::IoLoop::Start();
  static const int null = open("/dev/null", O_RDWR | O_CLOEXEC);

  auto pair = *sys::SeqpacketPair();
  struct State {
    std::atomic<int> closed = 0;
    std::atomic<int> answers = 0;
    std::atomic<int> exec_ends = 0;
  };
  const auto state = std::make_shared<State>();
  sandbox::SupervisorClient::Listener listener;
  listener.event = [](const davit::supervisor::v1::FromSupervisor&) {};
  listener.closed = [state](const absl::Status& status) {
    DAVIT_FUZZ_CHECK(!status.ok());
    ++state->closed;
    state->closed.notify_all();
  };
  auto client = *sandbox::SupervisorClient::Start(loop.get(), std::move(pair.first), listener);
  const auto requests = davit::fuzzing::Requests();
  int execs = 0;
  for (const auto& request : requests) {
    if (request.has_exec()) {
      ++execs;
      client->ExpectExec(request.exec().exec_id(), [state](const auto&) { ++state->exec_ends; });
    }
    client->Call(request, {}, absl::Seconds(600), [state](const auto&) { ++state->answers; });
  }
  while (size >= 2) {
    const size_t header = data[0] + size_t{256} * data[1];
    data += 2, size -= 2;
    const size_t length = std::min(header & 0x7fff, size);
    const int fds[] = {null};
    const bool with_fd = (header & 0x8000) != 0;
    if (!sys::SendPacket(pair.second.get(),
                         absl::string_view(reinterpret_cast<const char*>(data), length),
                         with_fd ? std::span<const int>(fds) : std::span<const int>())
             .ok()) {
      break;
    }
    data += length, size -= length;
  }
  pair.second.reset();
  // The end of the stream comes after all packets, if none of them was the end already.
  state->closed.wait(0);
  client->Close();
  DAVIT_FUZZ_CHECK(state->answers == static_cast<int>(requests.size()));
  DAVIT_FUZZ_CHECK(state->exec_ends == execs);
  DAVIT_FUZZ_CHECK(state->closed == 1);
  return 0;
}
