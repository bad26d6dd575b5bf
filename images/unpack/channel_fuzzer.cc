// Any bytes as a packet between davitd and its unpacking helper, in both directions.

#include <sys/socket.h>
#include <unistd.h>

#include "images/unpack/channel.h"
#include "proto/unpack.pb.h"
#include "runtime/sys/fuzzing/fuzzer.h"

namespace davit::fuzzing {

std::vector<std::string> Seeds() {
  unpack::v1::ToUnpacker start;
  start.mutable_start()->set_protocol_version(1);
  start.mutable_start()->set_ring_bytes(1 << 20);
  unpack::v1::ToUnpacker data;
  data.mutable_data()->set_produced(7);
  unpack::v1::FromUnpacker failed;
  failed.mutable_failed()->set_code(9);
  failed.mutable_failed()->set_message("m");
  return {start.SerializeAsString(), data.SerializeAsString(), failed.SerializeAsString()};
}

}  // namespace davit::fuzzing

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  namespace unpack = davit::images::unpack;
  int ends[2];
  DAVIT_FUZZ_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
  const auto receive = [&](google::protobuf::MessageLite* message) {
    if (send(ends[0], data, size, MSG_DONTWAIT) != static_cast<ssize_t>(size)) return;
    const auto received = unpack::ReceiveMessage(ends[1], message, unpack::Wait::kNoWait);
    if (!received.ok() || !*received) return;
    // What was understood can be said again.
    DAVIT_FUZZ_CHECK(unpack::SendMessage(ends[0], *message, unpack::Wait::kNoWait).ok());
    message->Clear();
    DAVIT_FUZZ_CHECK(unpack::ReceiveMessage(ends[1], message, unpack::Wait::kNoWait).ok());
  };
  davit::unpack::v1::ToUnpacker to;
  receive(&to);
  davit::unpack::v1::FromUnpacker from;
  receive(&from);
  close(ends[0]);
  close(ends[1]);
  return 0;
}
