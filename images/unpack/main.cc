// davit-unpack: turns one layer's compressed bytes into files, confined to the directory they go
// to. Started by davitd (images/unpack/client.h) with a socket, a ring of bytes and that directory.

#include <fcntl.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "images/unpack/channel.h"
#include "images/unpack/layer_writer.h"
#include "images/unpack/pipeline.h"
#include "images/unpack/ring_reader.h"
#include "images/unpack/sandbox.h"
#include "proto/unpack.pb.h"
#include "runtime/sys/errno.h"

#if defined(DAVIT_SANITIZED)
#include <sanitizer/common_interface_defs.h>
#endif

namespace davit::images::unpack {
namespace {

using ::davit::unpack::v1::FromUnpacker;
using ::davit::unpack::v1::Record;
using ::davit::unpack::v1::Start;
using ::davit::unpack::v1::ToUnpacker;

constexpr size_t kRecordsBytes = 32 * 1024;  // of one message
constexpr size_t kMaxErrorBytes = 2048;
constexpr size_t kMaxWarningsBytes = 16 * 1024;

absl::StatusOr<Start> ReceiveStart() {
  ToUnpacker message;
  DAVIT_RETURN_IF_ERROR(ReceiveMessage(kSocketFd, &message, Wait::kBlock).status());
  if (!message.has_start()) return absl::InternalError("the first message is not Start");
  if (message.start().protocol_version() != kProtocolVersion) {
    return absl::InternalError("davit-unpack and davitd are of different versions");
  }
  return message.start();
}

Limits LimitsOf(const Start& start) {
  Limits limits;
  limits.max_tar_bytes = start.max_tar_bytes();
  limits.max_file_bytes = start.max_file_bytes();
  limits.max_entries = start.max_entries();
  limits.max_records = start.max_records();
  limits.max_path_depth = start.max_path_depth();
  limits.max_xattr_bytes = start.max_xattr_bytes();
  limits.max_ratio = start.max_ratio();
  limits.ratio_floor_bytes = start.ratio_floor_bytes();
  return limits;
}

absl::Status SendRecords(std::vector<Record> records) {
  FromUnpacker message;
  size_t bytes = 0;
  for (Record& record : records) {
    const size_t size = record.ByteSizeLong() + 16;
    if (bytes > 0 && bytes + size > kRecordsBytes) {
      DAVIT_RETURN_IF_ERROR(SendMessage(kSocketFd, message, Wait::kBlock));
      message.Clear();
      bytes = 0;
    }
    *message.mutable_records()->add_records() = std::move(record);
    bytes += size;
  }
  return bytes == 0 ? absl::OkStatus() : SendMessage(kSocketFd, message, Wait::kBlock);
}

absl::Status SendDone(const Pipeline::Outcome& outcome, const LayerWriter& writer) {
  FromUnpacker message;
  auto& done = *message.mutable_done();
  done.set_sha256(outcome.sha256);
  done.set_uncompressed_size(outcome.uncompressed_size);
  done.set_entries(writer.entries());
  done.set_bytes(writer.bytes());
  done.set_inodes(writer.inodes());
  done.set_compression(static_cast<uint32_t>(outcome.compression));
  done.set_has_root_entry(writer.has_root_entry());
  done.set_dropped_whiteouts(writer.dropped_whiteouts());
  size_t bytes = 0;
  for (const std::string& warning : writer.warnings()) {
    if ((bytes += warning.size()) > kMaxWarningsBytes) break;
    done.add_warnings(warning);
  }
  return SendMessage(kSocketFd, message, Wait::kBlock);
}

absl::Status Unpack() {
  DAVIT_ASSIGN_OR_RETURN(const Start start, ReceiveStart());
  const Limits limits = LimitsOf(start);
  DAVIT_ASSIGN_OR_RETURN(auto mapped, RingReader::Map(kSocketFd, kRingFd, start.ring_bytes()));
  // Like the pipeline and the writer below, never destroyed: the process ends with its threads
  // still waiting for input.
  RingReader& source = *mapped.release();
  // OpenSSL sets itself up on first use: now, without any configuration file.
  OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CONFIG, nullptr);
  EVP_MD_free(EVP_MD_fetch(nullptr, "SHA256", nullptr));

  DAVIT_ASSIGN_OR_RETURN(sys::UniqueFd root, Confine(kStagingFd));
  close(kStagingFd);
  close(kRingFd);
  auto& pipeline = *new Pipeline(&source, limits);
  DAVIT_RETURN_IF_ERROR(RestrictSystemCalls());
  auto& writer = *new LayerWriter(std::move(root), limits, start.lowest_layer());
  auto tick = [&writer](uint64_t tar_bytes) {
    FromUnpacker message;
    message.mutable_tick()->set_tar_bytes(tar_bytes);
    message.mutable_tick()->set_entries(writer.entries());
    (void)SendMessage(kSocketFd, message, Wait::kNoWait);
  };
  DAVIT_ASSIGN_OR_RETURN(Pipeline::Outcome outcome, pipeline.Run(&writer, tick));
  DAVIT_RETURN_IF_ERROR(SendRecords(std::move(outcome.records)));
  return SendDone(outcome, writer);
}

[[noreturn]] void Main() {
  // One heap for all threads: each further one would reserve 64 MiB of address space.
  mallopt(M_ARENA_MAX, 1);
  const absl::Status status = Unpack();
  if (!status.ok()) {
    FromUnpacker message;
    message.mutable_failed()->set_code(static_cast<uint32_t>(status.code()));
    message.mutable_failed()->set_message(std::string(status.message().substr(0, kMaxErrorBytes)));
    (void)SendMessage(kSocketFd, message, Wait::kBlock);
  }
  // The other threads may be waiting for bytes that nobody needs any more.
  _exit(status.ok() ? 0 : 1);
}

}  // namespace
}  // namespace davit::images::unpack

int main() {
#if defined(DAVIT_SANITIZED)
  // Opened now: confined, it could not be.
  if (const char* path = getenv("DAVIT_SANITIZER_LOG")) {
    const int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd >= 0) __sanitizer_set_report_fd(reinterpret_cast<void*>(static_cast<intptr_t>(fd)));
  }
#endif
  davit::images::unpack::Main();
}
