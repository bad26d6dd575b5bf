// Stands in for a davit-unpack that an attacker has taken over. The first bytes of the stream say
// what it shall try; see client_test.cc.

#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "images/unpack/channel.h"
#include "images/unpack/ring_reader.h"
#include "proto/unpack.pb.h"

namespace davit::images::unpack {
namespace {

using ::davit::unpack::v1::FromUnpacker;
using ::davit::unpack::v1::Record;
using ::davit::unpack::v1::ToUnpacker;

void Send(const FromUnpacker& message) { (void)SendMessage(kSocketFd, message, Wait::kBlock); }

void SendRecord(Record::Kind kind, const std::string& path) {
  FromUnpacker message;
  Record& record = *message.mutable_records()->add_records();
  record.set_kind(kind);
  record.set_path(path);
  if (kind == Record::TRUSTED_XATTR) record.set_name("trusted.x");
  Send(message);
}

void SendConsumed(uint64_t consumed) {
  FromUnpacker message;
  message.mutable_consumed()->set_consumed(consumed);
  Send(message);
}

void SendDone(size_t digest_bytes) {
  FromUnpacker message;
  message.mutable_done()->set_sha256(std::string(digest_bytes, 'd'));
  Send(message);
}

// Waits until all of the stream has come.
void AwaitEnd(RingReader* reader) {
  for (;;) {
    const auto data = reader->Next();
    if (!data.ok()) _exit(2);
    if (data->empty()) return;
    (void)reader->Release(data->size());
  }
}

int Lie(RingReader* reader, const std::string& lie) {
  if (lie == "consumed too much") SendConsumed(1 << 30);
  if (lie == "consumed backwards") {
    SendConsumed(10);
    SendConsumed(5);
  }
  if (lie == "garbage") (void)send(kSocketFd, "\xff\xff\xff\xff", 4, MSG_NOSIGNAL);
  if (lie == "empty message") Send(FromUnpacker());
  if (lie == "early records") SendRecord(Record::WHITEOUT, "ok");
  if (lie == "early end") {
    // Died in the middle of the stream as far as anybody can tell.
    return 0;
  }
  AwaitEnd(reader);
  if (absl::StartsWith(lie, "record ")) SendRecord(Record::WHITEOUT, lie.substr(7));
  if (lie == "zero dev") SendRecord(Record::CHARACTER_DEVICE, "zero");
  if (lie == "xattr out") SendRecord(Record::TRUSTED_XATTR, "out");
  if (lie == "failed") {
    FromUnpacker message;
    message.mutable_failed()->set_code(5);  // not found: a code that no layer deserves
    message.mutable_failed()->set_message("\x1b[31m line\nbreak");
    Send(message);
    return 0;
  }
  SendDone(lie == "bad digest" ? 5 : 32);
  return lie == "bad exit" ? 1 : 0;
}

int Main() {
  ToUnpacker start;
  if (!ReceiveMessage(kSocketFd, &start, Wait::kBlock).ok()) return 2;
  auto reader = RingReader::Map(kSocketFd, kRingFd, start.start().ring_bytes());
  if (!reader.ok()) return 2;
  const auto data = (*reader)->Next();
  if (!data.ok()) return 2;
  return Lie(reader->get(), std::string(data->data()));
}

}  // namespace
}  // namespace davit::images::unpack

int main() { return davit::images::unpack::Main(); }
